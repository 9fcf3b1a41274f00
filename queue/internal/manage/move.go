package manage

import (
	"context"
	"fmt"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	firstMoveBatch = 10 // notifications
	maxMoveBatch   = 500
	moveBatchBytes = 8 << 20 // of bodies, about
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
	source, canMove := from.(db.Mover)
	inspector, canCount := from.(db.Inspector)
	if !canMove || !canCount {
		return moved, fmt.Errorf("the engine that it comes from cannot move notifications")
	}
	peers, err := from.Heartbeat(ctx, db.Presence{})
	if err != nil {
		return moved, err
	}
	if len(peers.Others) > 0 {
		return moved, fmt.Errorf("the instance %s uses it: stop that Caddy, or reload it with another queue, and try again %s later",
			peers.Others[0].Instance, db.GoneAfter)
	}
	total, err := countAll(ctx, inspector, endpoint)
	if err != nil {
		return moved, err
	}
	size := firstMoveBatch
	for at := int64(0); ; {
		found, next, err := source.Export(ctx, at, size)
		if err != nil {
			return moved, err
		}
		size = max(1, min(maxMoveBatch, nextSize(size, found)))
		if err := moveBatch(ctx, source, to, endpoint, found, &moved); err != nil {
			return moved, err
		}
		report(moved.Deliveries, max(total, moved.Deliveries))
		if at = next; at == 0 {
			break
		}
	}
	left, err := countAll(ctx, inspector, endpoint)
	if err == nil && left > 0 {
		err = fmt.Errorf("%d deliveries are still in the database that they come from: run it again", left)
	}
	return moved, err
}

// moveBatch moves those of the notifications that belong to the endpoint.
func moveBatch(ctx context.Context, source, to db.Mover, endpoint string, found []db.Details, moved *Moved) error {
	var batch []db.Details
	var ids []int64
	for i := range found {
		if endpoint == "" || found[i].Endpoint == endpoint {
			batch = append(batch, found[i])
			ids = append(ids, found[i].ID)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	stored, err := to.Import(ctx, batch)
	if err != nil {
		return fmt.Errorf("storing them in the new database: %w", err)
	}
	if err := source.Remove(ctx, ids); err != nil {
		return fmt.Errorf("removing what the new database has: %w", err)
	}
	moved.Stored += stored
	moved.There += len(batch) - stored
	for i := range batch {
		n := int64(len(batch[i].Deliveries))
		moved.Deliveries += n
		moved.Endpoints[batch[i].Endpoint] += n
	}
	return nil
}

// nextSize returns how many notifications to move next, so that memory stays bounded.
func nextSize(size int, last []db.Details) int {
	bytes := 0
	for i := range last {
		bytes += len(last[i].Body)
	}
	if bytes > moveBatchBytes {
		return size / 2
	}
	return size * 2
}

// countAll counts the deliveries of an endpoint, or all of them.
func countAll(ctx context.Context, in db.Inspector, endpoint string) (n int64, err error) {
	for from := int64(0); ; {
		found, next, err := list(ctx, in, db.Filter{Endpoint: endpoint}, db.Page{From: from, Limit: listAtOnce})
		if err != nil {
			return 0, err
		}
		n += int64(len(found))
		if from = next; from == 0 {
			return n, nil
		}
	}
}
