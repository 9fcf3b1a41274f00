package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// errCancelled is the cause for the end of a delivery that a person has cancelled.
var errCancelled = errors.New("cancelled by a person")

// deliver makes one attempt to deliver a job, and returns the outcome to write.
func (d *dispatcher) deliver(l *lane, job *heldJob) jobdb.Outcome {
	a := d.attachmentFor(job.queue)
	if a == nil { // the config has just changed: the job is released for an instance that has its endpoint
		return jobdb.Outcome{State: jobdb.StateAvailable}
	}
	ctx, end := context.WithCancelCause(d.deliverCtx)
	defer end(nil)
	attempt := attempt{dispatcher: d, attachment: a, lane: l, job: job, waited: job.ageNow(), started: time.Now()}
	if !job.begin(end) {
		return attempt.cancelled()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.options.DeliveryTimeout))
	defer cancel()
	note, err := job.unpack()
	if err != nil {
		return attempt.unreadable(err)
	}
	r, err := note.request(ctx)
	if err != nil {
		return attempt.unreadable(err)
	}
	r, attempt.span = d.tracing.start(r)
	lane, run := a.target.Route(r, []byte(note.Body), job.attempt, note.To)
	if _, wanted := splitRiverQueue(job.queue); lane != wanted && d.refreshFleet(ctx, job.claimed) != nil {
		return jobdb.Outcome{State: jobdb.StateAvailable}
	}
	// Two configs may leave a job to each other for as long as both live, unless it is to go to
	// one lane. So a job over its age is left to nobody.
	overdue := note.To == "" && job.ageNow() >= time.Duration(a.options.MaxAge)
	if !overdue && d.belongsToAnotherConfig(job.queue, lane, note.To) {
		l.leaveToOthers(job.id)
		return jobdb.Outcome{State: jobdb.StateAvailable}
	}
	attempt.started = time.Now()
	attempt.end(run())
	attempt.endSpan()
	return attempt.outcome(ctx)
}

// unpack returns the notification of a job. It decodes the arguments once, and then drops
// them to save memory.
func (j *heldJob) unpack() (*notification, error) {
	if j.note == nil {
		note, err := decodeNotification(j.args)
		if err != nil {
			return nil, fmt.Errorf("stored notification: %w", err)
		}
		j.note, j.args = note, nil
	}
	return j.note, nil
}

// attempt is one attempt to deliver a job.
type attempt struct {
	dispatcher *dispatcher
	attachment *attachment
	lane       *lane
	job        *heldJob
	waited     time.Duration // since the job was stored
	started    time.Time
	span       trace.Span
	delivery   intercomwebhook.Delivery
	took       time.Duration
}

// outcome decides the next state of the job.
func (a *attempt) outcome(ctx context.Context) jobdb.Outcome {
	delivery, cause := a.delivery, context.Cause(ctx)
	if delivery.Err != nil && errors.Is(cause, errStopping) { // interrupted by this process: does not count as an attempt
		return jobdb.Outcome{State: jobdb.StateAvailable}
	}
	if a.job.attempt == 1 {
		waitSeconds.WithLabelValues(a.job.queue).Observe(a.waited.Seconds())
	}
	switch {
	case delivery.Err == nil:
		a.count(resultDelivered)
		a.lane.health.succeeded(a.attachment, a.job.queue)
		a.logSuccess()
		return jobdb.Outcome{State: jobdb.StateCompleted}
	case errors.Is(cause, errCancelled):
		return a.cancelled()
	case errors.Is(delivery.Err, intercomwebhook.ErrUnrouted):
		return a.deadLetter(jobdb.StateCancelled, resultUnrouted)
	}
	a.lane.health.failed(a.attachment, a.job.queue, a.started, delivery.Err)
	if options := a.attachment.options; a.job.attempt >= options.MaxAttempts || a.job.ageNow() >= time.Duration(options.MaxAge) {
		return a.deadLetter(jobdb.StateDiscarded, resultDiscarded)
	}
	a.count(resultFailed)
	delay := retryDelay(a.job.attempt-1, delivery.RetryAfter)
	a.logFailure(zap.Duration("retry_in", delay))
	return jobdb.Outcome{State: jobdb.StateRetryable, Delay: delay, Error: a.record()}
}

// end records what came of the attempt.
func (a *attempt) end(delivery intercomwebhook.Delivery) {
	a.delivery, a.took = delivery, time.Since(a.started)
}

func (a *attempt) unreadable(err error) jobdb.Outcome {
	a.end(intercomwebhook.Delivery{Err: err})
	return a.deadLetter(jobdb.StateCancelled, resultUnreadable)
}

func (a *attempt) cancelled() jobdb.Outcome {
	a.end(intercomwebhook.Delivery{Err: errCancelled})
	a.logFailure()
	return jobdb.Outcome{State: jobdb.StateCancelled, Error: a.record()}
}

func (a *attempt) count(result string) { deliveriesTotal.WithLabelValues(a.job.queue, result).Inc() }

// attemptRecord is stored for each failed attempt. The first four fields are those of
// River's AttemptError, which River's web UI shows.
type attemptRecord struct {
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"`
	Error   string    `json:"error"`
	Trace   string    `json:"trace"`

	Instance string  `json:"instance"`
	Upstream string  `json:"upstream,omitempty"`
	Status   int     `json:"status,omitempty"`
	Seconds  float64 `json:"seconds"`
	Answer   octets  `json:"answer,omitempty"` // the first 1 KiB of its body
}

func (a *attempt) record() []byte {
	delivery := a.delivery
	text := delivery.Err.Error()
	if delivery.Upstream != "" {
		text = delivery.Upstream + ": " + text
	}
	record, err := json.Marshal(attemptRecord{
		At:       time.Now().UTC(),
		Attempt:  a.job.attempt,
		Error:    text,
		Instance: a.dispatcher.db.Instance(),
		Upstream: delivery.Upstream,
		Status:   delivery.Status,
		Seconds:  a.took.Seconds(),
		Answer:   octets(delivery.Answer),
	})
	if err != nil { // cannot happen with these types
		return []byte(`{}`)
	}
	return record
}
