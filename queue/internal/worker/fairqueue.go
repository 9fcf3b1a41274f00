package worker

// fairQueue has the deliveries of a lane that wait for a worker. Workspaces take turns: each
// turn is one delivery, and a workspace that had its turn is behind all others. The
// deliveries of one workspace keep their order.
type fairQueue struct {
	byWorkspace map[string][]*delivery // has no workspace without deliveries
	next        []string               // workspaces in the order of their turns
	waiting     int                    // deliveries
}

// add adds a delivery behind those of its workspace.
func (q *fairQueue) add(d *delivery) {
	if q.byWorkspace == nil {
		q.byWorkspace = make(map[string][]*delivery)
	}
	workspace := d.note.Workspace
	if q.byWorkspace[workspace] == nil {
		q.next = append(q.next, workspace)
	}
	q.byWorkspace[workspace] = append(q.byWorkspace[workspace], d)
	q.waiting++
}

// pop removes the delivery whose turn it is. There must be one.
func (q *fairQueue) pop() *delivery {
	workspace := q.next[0]
	q.next = q.next[1:]
	deliveries := q.byWorkspace[workspace]
	d := deliveries[0]
	deliveries[0] = nil
	if len(deliveries) > 1 {
		q.byWorkspace[workspace] = deliveries[1:]
		q.next = append(q.next, workspace)
	} else {
		delete(q.byWorkspace, workspace)
	}
	q.waiting--
	return d
}
