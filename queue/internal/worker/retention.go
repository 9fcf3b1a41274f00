package worker

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	retentionInterval = 10 * time.Second
	expiryTimeout     = 10 * time.Second
	expiryRows        = 500 // that are deleted at once

	// While answers take long, a pause between two deletions is so many times as long as an
	// answer takes.
	answerTimes = 4
)

// retention deletes what is older than it is kept.
type retention struct {
	db         db.DB
	log        *zap.Logger
	config     func() Config // the current one
	answerTime func() time.Duration

	failing bool
}

// run deletes until nothing is left to delete, and logs when that begins to fail.
func (t *retention) run(ctx context.Context) {
	err := t.expire(ctx)
	if err != nil && ctx.Err() == nil && !t.failing {
		t.log.Error("what is no longer kept could not be deleted; this will be tried again", zap.Error(err))
	}
	t.failing = err != nil
}

// expire deletes what is no longer kept of all endpoints. After each deletion it pauses for at
// least as long as that took, so that it does not slow down storing and delivering.
func (t *retention) expire(ctx context.Context) error {
	for name, e := range t.config() {
		expiry := db.Expiry{Endpoint: name, KeepDelivered: e.Options.KeepDelivered, KeepDead: e.Options.KeepDead, Limit: expiryRows}
		for more := true; more; more = expiry.Cursor != 0 {
			began := time.Now()
			cursor, err := t.expireRows(ctx, expiry)
			if err != nil {
				return err
			}
			expiry.Cursor = cursor
			select {
			case <-time.After(max(time.Since(began), answerTimes*t.answerTime())):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func (t *retention) expireRows(ctx context.Context, expiry db.Expiry) (cursor int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, expiryTimeout)
	defer cancel()
	_, cursor, err = t.db.Expire(ctx, expiry)
	return cursor, err
}
