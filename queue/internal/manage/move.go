package manage

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	moveBatch      = 100     // notifications that are moved at once, at most
	moveBatchBytes = 4 << 20 // of their bodies, but for the last one
	sameID         = 1000    // how many notifications have the id of another one's row as Intercom's id, at most
)

// Moved is what Move has done.
type Moved struct {
	Deliveries int64            // of the notifications that are in the new database now
	Stored     int              // notifications that were not in the new database before
	There      int              // notifications that were
	Endpoints  map[string]int64 // deliveries by endpoint
}

// Move moves the notifications of an endpoint, or all of them if it is empty, from one
// database to another one, while a Caddy works with the other one. It removes from the first
// only what the other one has durably, so it can be run again after an interruption. It calls
// report with the number of deliveries.
func Move(ctx context.Context, from db.DB, to db.Mover, endpoint string, report func(done, total int64)) (moved Moved, err error) {
	moved.Endpoints = make(map[string]int64)
	source, ok := from.(db.Inspector)
	if !ok {
		return moved, errors.New("the engine that it comes from cannot list notifications")
	}
	peers, err := from.Heartbeat(ctx, db.Presence{})
	if err != nil {
		return moved, err
	}
	if len(peers.Others) > 0 {
		return moved, fmt.Errorf("the instance %s uses it: stop that Caddy, or reload it with another queue, and try again %s later",
			peers.Others[0].Instance, db.GoneAfter)
	}
	total := int64(0)
	err = eachPage(ctx, source, endpoint, func(found []db.Delivery) error {
		total += int64(len(found))
		return nil
	})
	if err != nil {
		return moved, err
	}
	err = eachPage(ctx, source, endpoint, func(found []db.Delivery) error {
		return movePage(ctx, source, to, found, func(batch []db.Details, stored int) {
			moved.Stored += stored
			moved.There += len(batch) - stored
			for i := range batch {
				n := int64(len(batch[i].Deliveries))
				moved.Deliveries += n
				moved.Endpoints[batch[i].Endpoint] += n
			}
			report(moved.Deliveries, max(total, moved.Deliveries))
		})
	})
	if err != nil {
		return moved, err
	}
	return moved, eachPage(ctx, source, endpoint, func(left []db.Delivery) error {
		if len(left) > 0 {
			return fmt.Errorf("%d deliveries or more are still in the database that they come from: run it again", len(left))
		}
		return nil
	})
}

// eachPage calls do with all deliveries of an endpoint, the oldest first.
func eachPage(ctx context.Context, in db.Inspector, endpoint string, do func(found []db.Delivery) error) error {
	for page := (db.Page{Limit: listAtOnce}); ; {
		found, next, err := list(ctx, in, db.Filter{Endpoint: endpoint}, page)
		if err == nil {
			err = do(found)
		}
		if err != nil || next == 0 {
			return err
		}
		page.From = next
	}
}

// movePage moves the notifications of some deliveries, in batches that it reports.
func movePage(ctx context.Context, source db.Inspector, to db.Mover, deliveries []db.Delivery, report func(batch []db.Details, stored int)) error {
	var batch []db.Details
	bytes := 0
	for i := range deliveries {
		d := &deliveries[i]
		if i == 0 || d.Notification != deliveries[i-1].Notification {
			found, err := source.Find(ctx, d.Endpoint, strconv.FormatInt(d.Notification, 10), sameID)
			if err != nil {
				return err
			}
			for _, n := range found {
				if n.ID == d.Notification { // Intercom's id of another one may be the same number
					n.Release()
					batch = append(batch, n)
					bytes += len(n.Body)
				}
			}
		}
		if len(batch) == 0 || len(batch) < moveBatch && bytes < moveBatchBytes && i < len(deliveries)-1 {
			continue
		}
		stored, err := to.Import(ctx, batch)
		if err != nil {
			return fmt.Errorf("storing them in the new database: %w", err)
		}
		if err := remove(ctx, source, batch); err != nil {
			return fmt.Errorf("removing what the new database has: %w", err)
		}
		report(batch, stored)
		batch, bytes = nil, 0
	}
	return nil
}

// remove deletes notifications with all that belongs to them.
func remove(ctx context.Context, from db.Inspector, notifications []db.Details) error {
	var ids []int64
	for i := range notifications {
		for _, d := range notifications[i].Deliveries {
			ids = append(ids, d.ID)
		}
	}
	_, err := from.Change(ctx, db.Change{Action: db.Erase, IDs: ids})
	return err
}
