package worker

// fairQueue has the deliveries of a lane that wait for a worker. Workspaces take turns: each
// turn is one delivery, and a workspace that had its turn is behind all others. The
// deliveries of one workspace keep their order.
type fairQueue struct {
	workspaces map[string]*workspaceQueue // that have deliveries or reserved places
	next       []*workspaceQueue          // that have deliveries, in the order of their turns
	waiting    int                        // deliveries
	reserved   int                        // places for deliveries that are being stored
	handedOver int                        // deliveries that came from memory, and reserved places
}

// workspaceQueue is what waits of one workspace.
type workspaceQueue struct {
	workspace  string
	deliveries []*delivery
	reserved   int
}

func (q *fairQueue) of(workspace string) *workspaceQueue {
	w := q.workspaces[workspace]
	if w == nil {
		if q.workspaces == nil {
			q.workspaces = make(map[string]*workspaceQueue)
		}
		w = &workspaceQueue{workspace: workspace}
		q.workspaces[workspace] = w
	}
	return w
}

// forgetEmpty forgets a workspace of which nothing waits.
func (q *fairQueue) forgetEmpty(w *workspaceQueue) {
	if len(w.deliveries)+w.reserved == 0 {
		delete(q.workspaces, w.workspace)
	}
}

// len returns how many deliveries wait, with the reserved places.
func (q *fairQueue) len() int { return q.waiting + q.reserved }

// reserve reserves a place for a delivery that is being stored. It returns false if there is
// none. Beyond the room there are as many places again for workspaces that have less than
// their part of it, so that a burst of one leaves places for the others.
func (q *fairQueue) reserve(workspace string, room int) bool {
	if q.len() >= room {
		w, known := q.workspaces[workspace]
		if q.len() >= 2*room || known && (len(w.deliveries)+w.reserved)*len(q.workspaces) >= room {
			return false
		}
	}
	q.of(workspace).reserved++
	q.reserved++
	q.handedOver++
	return true
}

// unreserve gives back a reserved place.
func (q *fairQueue) unreserve(workspace string) {
	w := q.of(workspace)
	w.reserved--
	q.reserved--
	q.handedOver--
	q.forgetEmpty(w)
}

// add adds a delivery behind those of its workspace.
func (q *fairQueue) add(d *delivery) {
	w := q.of(d.note.Workspace)
	if len(w.deliveries) == 0 {
		q.next = append(q.next, w)
	}
	w.deliveries = append(w.deliveries, d)
	q.waiting++
	if d.fromMemory {
		q.handedOver++
	}
}

// pop removes the delivery whose turn it is. There must be one.
func (q *fairQueue) pop() *delivery {
	w := q.next[0]
	q.next[0] = nil
	q.next = q.next[1:]
	d := w.deliveries[0]
	w.deliveries[0] = nil
	w.deliveries = w.deliveries[1:]
	if len(w.deliveries) > 0 {
		q.next = append(q.next, w)
	}
	q.waiting--
	if d.fromMemory {
		q.handedOver--
	}
	q.forgetEmpty(w)
	return d
}

// popAll removes all deliveries.
func (q *fairQueue) popAll() (all []*delivery) {
	for q.waiting > 0 {
		all = append(all, q.pop())
	}
	return all
}

// claimed returns how much of the room is taken, as a claim sees it: what came from memory
// takes no more than half, so that it does not keep out older deliveries in the database.
func (q *fairQueue) claimed(room int) int {
	return q.len() - max(0, q.handedOver-room/2)
}
