package queue

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	expiryInterval = 10 * time.Second
	expiryTimeout  = 10 * time.Second
	expiryMaxRows  = 500 // that are deleted at once
)

// expireFinished deletes finished jobs that are older than they are to be kept. After each
// deletion of up to expiryMaxRows rows it pauses for as long as that took, so that it does
// not slow down storing and delivering.
func (d *dispatcher) expireFinished(ctx context.Context) {
	failing := false
	every(ctx, expiryInterval, nil, func() {
		err := d.expire(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			d.log().Error("expired jobs could not be deleted; this will be tried again", zap.String("database", d.location.name), zap.Error(err))
		}
		failing = err != nil
	})
}

func (d *dispatcher) expire(ctx context.Context) error {
	queues, err := d.db.QueuesWith(ctx, jobdb.FinishedStates)
	if err != nil {
		return err
	}
	current := d.current()
	for _, a := range current {
		expiry := jobdb.Expiry{
			KeepCompleted: time.Duration(a.options.KeepDelivered),
			KeepDead:      time.Duration(a.options.KeepDead),
			Limit:         expiryMaxRows,
		}
		for _, queue := range queues {
			if endpoint, _ := splitRiverQueue(queue); current.owner(endpoint) == a {
				expiry.Queues = append(expiry.Queues, queue)
			}
		}
		if len(expiry.Queues) == 0 {
			continue
		}
		for deleted := int64(expiry.Limit); deleted == int64(expiry.Limit); {
			started := time.Now()
			if deleted, err = d.expireRows(ctx, expiry); err != nil {
				return err
			}
			if err := sleep(ctx, time.Since(started)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *dispatcher) expireRows(ctx context.Context, expiry jobdb.Expiry) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, expiryTimeout)
	defer cancel()
	return d.db.Expire(ctx, expiry)
}
