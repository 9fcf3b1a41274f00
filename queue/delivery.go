package queue

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// deliverer is River's worker: it has the running config deliver what is stored.
type deliverer struct {
	river.WorkerDefaults[notification]
	engine *engine
}

// absentDelay is how long to leave a notification alone whose endpoint is not in the
// running config. That is no failed attempt.
const absentDelay = time.Minute

// Timeout implements river.Worker.
func (d *deliverer) Timeout(job *river.Job[notification]) time.Duration {
	if e := d.engine.endpoint(job.Queue); e != nil {
		return time.Duration(e.options.DeliveryTimeout)
	}
	return defaultDeliveryTimeout
}

// NextRetry implements river.Worker.
func (d *deliverer) NextRetry(job *river.Job[notification]) time.Time {
	return time.Now().Add(retryDelay(len(job.Errors), job.Args.retryAfter))
}

// Work implements river.Worker.
func (d *deliverer) Work(ctx context.Context, job *river.Job[notification]) error {
	e := d.engine.endpoint(job.Queue)
	if e == nil {
		return river.JobSnooze(absentDelay)
	}
	r, err := job.Args.unpack(ctx)
	if err != nil {
		return e.bury(job, resultUnreadable, err)
	}
	began := time.Now()
	_, deliver := e.target.Route(r, []byte(job.Args.Body), job.Attempt)
	delivery := deliver()
	err = delivery.Err
	switch {
	case err == nil:
		deliveriesTotal.WithLabelValues(job.Queue, resultDelivered).Inc()
		d.engine.health(job.Queue).succeeded(e.logger, job.Queue)
		return nil
	case errors.Is(err, intercomwebhook.ErrUnrouted):
		return e.bury(job, resultUnrouted, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return err // the end of this process, or a person's wish; not the backend's fault
	}

	job.Args.retryAfter = delivery.RetryAfter
	d.engine.health(job.Queue).failed(e.logger, job.Queue, began, err)
	job.MaxAttempts = e.options.MaxAttempts // the running config's
	if time.Since(job.CreatedAt) >= time.Duration(e.options.MaxAge) {
		job.MaxAttempts = job.Attempt // by which River tells the last one
	}
	if job.Attempt >= job.MaxAttempts {
		deliveriesTotal.WithLabelValues(job.Queue, resultDiscarded).Inc()
		e.warnOfDeadLetter(job, err)
	} else {
		deliveriesTotal.WithLabelValues(job.Queue, resultFailed).Inc()
	}
	return err
}

// bury makes a dead letter of a notification that no other attempt would deliver.
func (e *endpoint) bury(job *river.Job[notification], result string, err error) error {
	deliveriesTotal.WithLabelValues(job.Queue, result).Inc()
	e.warnOfDeadLetter(job, err)
	return river.JobCancel(err)
}

func (e *endpoint) warnOfDeadLetter(job *river.Job[notification], err error) {
	e.floodLogger.Warn("notification is a dead letter: it stays, and can be tried again",
		zap.String("lane", job.Queue), zap.String("topic", job.Args.Topic), zap.String("app_id", job.Args.AppID),
		zap.String("id", job.Args.ID), zap.Int64("job", job.ID), zap.Int("attempt", job.Attempt), zap.Error(err))
}

// Interface guard
var _ river.Worker[notification] = (*deliverer)(nil)
