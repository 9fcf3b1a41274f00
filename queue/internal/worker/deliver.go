package worker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// retryDelays are the delays after the first, the second and each further failed attempt.
var retryDelays = [...]time.Duration{
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// maxRetryAfter is the longest delay that a backend can ask for with Retry-After.
const maxRetryAfter = time.Hour

// errStopping is the cause for the end of deliveries that the end of this process
// interrupts.
var errStopping = errors.New("stopping")

// deliverer makes attempts to deliver.
type deliverer struct {
	ctx      context.Context // ends, with errStopping as its cause, when running deliveries are interrupted
	ordered  atomic.Pointer[interruptible]
	instance string
	endpoint func(name string) *Endpoint
	peers    *peers
	tracing  *tracing
}

// interruptible is the context of those deliveries that have an order.
type interruptible struct {
	context.Context
	interrupt context.CancelCauseFunc
}

// interruptOrdered ends the running deliveries that have an order, before others take them over
// and deliver what is about the same object.
func (v *deliverer) interruptOrdered() {
	ctx, interrupt := context.WithCancelCause(v.ctx)
	if before := v.ordered.Swap(&interruptible{ctx, interrupt}); before != nil {
		before.interrupt(errStopping)
	}
}

// deliver makes one attempt, and returns the outcome to write. It returns false if this
// instance does not hold the delivery any more: then there is nothing to write.
func (v *deliverer) deliver(d *delivery) (outcome db.Outcome, ok bool) {
	if !d.begin() {
		return db.Outcome{}, false
	}
	e := v.endpoint(d.lane.Endpoint)
	if e == nil { // the config has just changed: an instance that has the endpoint will claim it
		return released, true
	}
	waited, options := d.ageNow(), e.lane(d.lane.Name)
	ctx := v.ctx
	if d.ordered {
		ctx = v.ordered.Load()
	}
	ctx, cancel := context.WithTimeout(ctx, options.DeliveryTimeout)
	defer cancel()
	a := &attempt{delivery: d, endpoint: e, options: options, label: Label(d.lane.Lane), series: e.series(d.lane.Name), started: time.Now()}
	if !v.run(ctx, a) || a.result.Err != nil && errors.Is(context.Cause(ctx), errStopping) {
		return released, true // it has not ended, so it does not count
	}
	a.took = time.Since(a.started)
	if d.attempts == 0 {
		waitSeconds.WithLabelValues(a.series).Observe(waited.Seconds())
	}
	outcome = decide(a.result, d.attempts, d.ageNow(), options)
	outcome.Attempt = &db.Attempt{
		At: time.Now(), Instance: v.instance, Upstream: a.result.Upstream, Status: a.result.Status, Duration: a.took, Answer: a.result.Answer,
	}
	if a.result.Err != nil {
		outcome.Attempt.Error = a.result.Err.Error()
	}
	a.tell(outcome)
	return outcome, true
}

// run runs the route for the delivery, and sets the result. It returns false if the delivery
// is left to another instance.
func (v *deliverer) run(ctx context.Context, a *attempt) bool {
	r, err := restoreRequest(ctx, &a.note.Request)
	if err != nil {
		a.result.Err = err
		return true
	}
	r, span := v.tracing.start(r)
	to := ""
	if a.fixed {
		to = a.lane.Name
	}
	routed, run := a.endpoint.Handler.Route(r, a.note.Body, intercomwebhook.Attempt{Number: a.attempts + 1, Stale: a.stale}, to)
	if routed != a.lane.Name {
		if v.peers.refresh(ctx, a.claimed) != nil {
			return false
		}
		// Two configs may leave a delivery to each other for as long as both live, unless it
		// is fixed to its lane. So one over its age is left to nobody.
		overdue := !a.fixed && a.ageNow() >= a.options.MaxAge
		if !overdue && v.peers.belongsToOther(a.lane.Lane, routed, a.fixed) {
			a.lane.leaveToOthers(a.id)
			return false
		}
	}
	a.started = time.Now()
	a.result = run()
	endSpan(span, a.delivery, a.result)
	return true
}

// decide returns the outcome of an attempt that has ended: its state, the reason of a dead
// one, and the delay of a retrying one. Before are the attempts that ended earlier; the age
// is that at the end of the attempt.
func decide(result intercomwebhook.Delivery, before int, age time.Duration, options *LaneOptions) db.Outcome {
	switch {
	case result.Err == nil:
		return db.Outcome{State: db.Delivered}
	case errors.Is(result.Err, intercomwebhook.ErrUnrouted):
		return db.Outcome{State: db.Dead, Reason: db.Unrouted}
	case slices.ContainsFunc(options.DeadOn, func(status int) bool { return caddyhttp.StatusCodeMatches(result.Status, status) }):
		return db.Outcome{State: db.Dead, Reason: db.Refused}
	case options.MaxAttempts > 0 && before+1 >= options.MaxAttempts:
		return db.Outcome{State: db.Dead, Reason: db.Attempts}
	case age >= options.MaxAge:
		return db.Outcome{State: db.Dead, Reason: db.Age}
	default:
		return db.Outcome{State: db.Retrying, Delay: retryDelay(before, result.RetryAfter)}
	}
}

// retryDelay returns the delay after a failed attempt, given how many attempts have failed
// before it. Jitter of 20 % spreads out the retries of those that failed at the same time.
func retryDelay(failedBefore int, retryAfter time.Duration) time.Duration {
	delay := retryDelays[min(failedBefore, len(retryDelays)-1)]
	delay = time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // need not be unpredictable
	return max(delay, min(retryAfter, maxRetryAfter))
}

// attempt is one attempt to deliver.
type attempt struct {
	*delivery
	endpoint *Endpoint
	options  *LaneOptions
	label    string // of the lane
	series   string // of the lane, in metrics
	started  time.Time
	took     time.Duration
	result   intercomwebhook.Delivery
}

// tell counts and logs what came of the attempt, and tells the health of the lane. A failed attempt
// is logged at INFO: the notification is kept, and what an operator must know about a lane or a dead
// letter is a warning of its own.
func (a *attempt) tell(outcome db.Outcome) {
	result, health := string(outcome.State), healthChange{}
	switch outcome.State { //nolint:exhaustive // an attempt ends in no other state
	case db.Delivered:
		level := zap.InfoLevel // so that each failure in the log has its end there, too
		if a.attempts == 0 {
			level = zap.DebugLevel
		}
		if c := a.endpoint.Logger.Check(level, logging.Delivered); c != nil {
			c.Write(a.logFields()...)
		}
		health = a.lane.health.succeeded(time.Now())
	case db.Retrying:
		result = resultFailed
		a.endpoint.Logger.Info(logging.NotDelivered, append(a.logFields(), zap.Duration("retry_in", outcome.Delay))...)
	default:
		result = string(outcome.Reason)
		a.endpoint.Logger.Info(logging.NotDelivered, a.logFields()...)
		a.deadLetter(outcome.Reason)
	}
	if outcome.State != db.Delivered && outcome.Reason != db.Unrouted {
		health = a.lane.health.failed(time.Now(), a.started, a.result.Err)
	}
	tellHealth(a.endpoint, a.lane.Name, health)
	attemptsTotal.WithLabelValues(a.series, result).Inc()
	kind := history.Delivered
	if a.result.Err != nil {
		kind = history.Failed
	}
	history.Lane(a.series).Took(time.Now(), kind, a.took)
}

// deadLetter tells that the delivery will not be tried again unless a person retries it.
func (a *attempt) deadLetter(reason db.Reason) {
	deadLettersTotal.WithLabelValues(a.series, intercom.Label(a.note.Topic)).Inc()
	a.lane.deadLetterLog(a.endpoint).Warn("notification is a dead letter: it is kept, and can be retried",
		append(a.logFields(), zap.String("reason", string(reason)))...)
	a.endpoint.Events.Emit(events.DeadLetter, func() map[string]any {
		return map[string]any{
			"id": a.note.NotificationID, "topic": a.note.Topic, "app_id": a.note.Workspace, "lane": a.label, "kind": a.endpoint.kind(a.lane.Name),
			"delivery": a.id, "attempt": a.attempts + 1, "reason": string(reason),
			"upstream": a.result.Upstream, "status": a.result.Status, "error": a.result.Err.Error(),
		}
	})
}

func (a *attempt) logFields() []zap.Field {
	return []zap.Field{zap.Inline(logging.Attempt{
		ID: a.note.NotificationID, Topic: a.note.Topic, AppID: a.note.Workspace,
		Lane: a.label, Number: a.attempts + 1,
		Upstream: a.result.Upstream, Status: a.result.Status, Duration: a.took, Err: a.result.Err,
	}), zap.Int64("delivery", a.id)}
}

// tellHealth logs, and emits as an event, that a lane has gone down or is no longer down.
func tellHealth(e *Endpoint, lane string, change healthChange) {
	if !change.changed {
		return
	}
	label, kind := Label(db.Lane{Endpoint: e.Name, Name: lane}), e.kind(lane)
	fields := []zap.Field{zap.String("lane", label), zap.String("kind", kind), zap.Int("failed_attempts", change.failures), zap.Duration("after", change.after)}
	data := map[string]any{"lane": label, "kind": kind, "failed_attempts": change.failures, "after": change.after.Seconds()}
	if change.down {
		data["error"] = change.lastError
		e.Logger.Warn("lane is down: notifications are kept, and tried again", append(fields, zap.String("error", change.lastError))...)
		e.Events.Emit(events.LaneDown, func() map[string]any { return data })
		return
	}
	e.Logger.Info("lane is not down any more", fields...)
	e.Events.Emit(events.LaneUp, func() map[string]any { return data })
}
