package manage

import (
	"context"
	"fmt"
	"strconv"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	moveBatch = 40   // deliveries that are moved at once, at most: the bodies of their notifications are in memory
	sameID    = 1000 // how many notifications have the id of another one's row as Intercom's id, at most
)

// Moved is what Move has done.
type Moved struct {
	Deliveries int64            // of the notifications that are in the new database now
	Stored     int              // notifications that were not in the new database before
	There      int              // notifications that were
	Endpoints  map[string]int64 // deliveries by endpoint
}

// Move moves the notifications of an endpoint, or all of them if it is empty, from one database to another one, while
// a Caddy works with the other one. It removes from the first only what the other one has durably, so it can be run
// again after an interruption. It calls report with the number of deliveries.
func Move(ctx context.Context, from db.DB, to db.Mover, endpoint string, report func(done, total int64)) (moved Moved, err error) {
	moved.Endpoints = make(map[string]int64)
	source := from.(db.Inspector) // as those of all engines
	peers, err := from.Heartbeat(ctx, db.Presence{})
	if err != nil {
		return moved, err
	}
	if len(peers.Others) > 0 {
		return moved, fmt.Errorf("the instance %s uses it: stop that Caddy, or reload it with another queue, and try again %s later",
			peers.Others[0].Instance, db.GoneAfter)
	}
	total, err := countAll(ctx, source, endpoint)
	if err != nil {
		return moved, err
	}
	all := Selection{Filter: db.Filter{Endpoint: endpoint}}
	err = all.each(ctx, source, &db.Page{Limit: moveBatch}, func(found []db.Delivery) error {
		if len(found) == 0 {
			return nil
		}
		batch, err := whole(ctx, source, found)
		if err != nil {
			return err
		}
		stored, err := to.Import(ctx, batch)
		if err != nil {
			return fmt.Errorf("storing them in the new database: %w", err)
		}
		moved.Stored += stored
		moved.There += len(batch) - stored
		var ids []int64
		for i := range batch {
			for _, d := range batch[i].Deliveries {
				ids = append(ids, d.ID)
				moved.Endpoints[batch[i].Endpoint]++
			}
		}
		if _, err := source.Change(ctx, db.Change{Action: db.Erase, IDs: ids}); err != nil {
			return fmt.Errorf("removing what the new database has: %w", err)
		}
		moved.Deliveries += int64(len(ids))
		report(moved.Deliveries, max(total, moved.Deliveries))
		return nil
	}, nil)
	if err != nil {
		return moved, err
	}
	left, err := countAll(ctx, source, endpoint)
	if err == nil && left > 0 {
		err = fmt.Errorf("%d deliveries are still in the database that they come from: run it again", left)
	}
	return moved, err
}

func countAll(ctx context.Context, in db.Inspector, endpoint string) (n int64, err error) {
	all := Selection{Filter: db.Filter{Endpoint: endpoint}}
	err = all.each(ctx, in, &db.Page{Limit: listAtOnce}, func(found []db.Delivery) error {
		n += int64(len(found))
		return nil
	}, nil)
	return n, err
}

// whole returns the notifications of some deliveries, with all that belongs to them.
func whole(ctx context.Context, in db.Inspector, deliveries []db.Delivery) (notifications []db.Details, err error) {
	for i := range deliveries {
		d := &deliveries[i]
		if i > 0 && d.Notification == deliveries[i-1].Notification {
			continue
		}
		found, err := in.Find(ctx, d.Endpoint, strconv.FormatInt(d.Notification, 10), sameID)
		if err != nil {
			return nil, err
		}
		for _, n := range found {
			if n.ID == d.Notification { // Intercom's id of another one may be the same number
				n.Release()
				notifications = append(notifications, n)
			}
		}
	}
	return notifications, nil
}
