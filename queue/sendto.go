package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// sendAtOnce is how many new jobs are stored at once.
const sendAtOnce = 8

// checkTo returns an error if a lane cannot be chosen for new jobs.
func (e endpoint) checkTo(lane string) error {
	a := e.attachment()
	if a == nil {
		return fmt.Errorf("to: no handler of the config has the queue %q: give a handler this name, or name it with `adopt`", e.name)
	}
	if lanes := a.target.Lanes(); !slices.Contains(lanes, lane) {
		return fmt.Errorf("to %q: no route has this lane; the lanes are %s", lane, option.Choices(lane, lanes))
	}
	return nil
}

// sendTo stores new jobs that are delivered to a lane, whatever their topic. It returns how
// many; it leaves out those that are gone or unreadable.
func (e endpoint) sendTo(ctx context.Context, lane string, ids []int64) (sent int, err error) {
	var mu sync.Mutex
	var sending sync.WaitGroup
	var errs []error
	for _, id := range ids {
		sending.Go(func() {
			stored, failed := e.sendOneTo(ctx, lane, id)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, failed)
			if stored {
				sent++
			}
		})
	}
	sending.Wait()
	return sent, errors.Join(errs...)
}

func (e endpoint) sendOneTo(ctx context.Context, lane string, id int64) (stored bool, err error) {
	d, options := e.dispatcher, e.attachment().options
	var note *notification
	var size int
	err = d.eachRecord(ctx, jobdb.Filter{IDs: []int64{id}}, jobdb.Page{Limit: 1, Args: true}, func(record *jobdb.Record) {
		if decoded, err := decodeNotification(record.Args); err == nil {
			note, size = decoded, len(record.Args)
			note.Kind = record.Kind
		}
	})
	if err != nil || note == nil {
		return false, err
	}
	release, err := d.store.reserve(ctx, size, 1)
	if err != nil {
		return false, err
	}
	defer release()
	note.Endpoint, note.To = options.Name, lane
	job := note.job(lane, options)
	job.UniqueKey = nil // it is no duplicate of the one that it is made from
	_, err = d.store.insert(ctx, &pendingInsert{pendingJob: pendingJob{job: job, note: note}})
	return err == nil, err
}
