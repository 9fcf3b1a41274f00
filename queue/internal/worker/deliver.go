package worker

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// errStopping is the cause for the end of deliveries that the end of this process
// interrupts.
var errStopping = errors.New("stopping")

// deliverer makes attempts to deliver.
type deliverer struct {
	ctx      context.Context // ends, with errStopping as its cause, when running deliveries are interrupted
	instance string
	endpoint func(name string) *Endpoint
	peers    *peers
	tracing  *tracing
}

// attempt is one attempt to deliver.
type attempt struct {
	*delivery
	endpoint *Endpoint
	lane     *lane
	started  time.Time
	took     time.Duration
	result   intercomwebhook.Delivery
}

var released = db.Outcome{State: db.Waiting}

// deliver makes one attempt, and returns the outcome to write. It returns false if this
// instance does not hold the delivery any more: then there is nothing to write.
func (v *deliverer) deliver(l *lane, d *delivery) (outcome db.Outcome, ok bool) {
	if !d.begin() {
		return db.Outcome{}, false
	}
	e := v.endpoint(d.lane.Endpoint)
	if e == nil { // the config has just changed: an instance that has the endpoint will claim it
		return released, true
	}
	waited := d.ageNow()
	ctx, cancel := context.WithTimeout(v.ctx, e.Options.DeliveryTimeout)
	defer cancel()
	a := &attempt{delivery: d, endpoint: e, lane: l, started: time.Now()}
	if !v.run(ctx, a) || a.result.Err != nil && errors.Is(context.Cause(ctx), errStopping) {
		return released, true // it has not ended, so it does not count
	}
	a.took = time.Since(a.started)
	if d.attempts == 0 {
		waitSeconds.WithLabelValues(Label(l.Lane)).Observe(waited.Seconds())
	}
	outcome = decide(a.result, d.attempts, d.ageNow(), &e.Options)
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
		to = a.delivery.lane.Name
	}
	routed, run := a.endpoint.Handler.Route(r, a.note.Body, a.attempts+1, to)
	if routed != a.delivery.lane.Name {
		if v.peers.refresh(ctx, a.claimed) != nil {
			return false
		}
		// Two configs may leave a delivery to each other for as long as both live, unless it
		// is fixed to its lane. So one over its age is left to nobody.
		overdue := !a.fixed && a.ageNow() >= a.endpoint.Options.MaxAge
		if !overdue && v.peers.belongsToOther(a.delivery.lane, routed, a.fixed) {
			a.lane.leaveToOthers(a.id)
			return false
		}
	}
	a.started = time.Now()
	a.result = run()
	endSpan(span, a.delivery, a.result)
	return true
}

// tell counts and logs what came of the attempt, and tells the health of the lane.
func (a *attempt) tell(outcome db.Outcome) {
	label, result := Label(a.delivery.lane), string(outcome.State)
	switch outcome.State {
	case db.Delivered:
		level := zap.InfoLevel // so that each failure in the log has its end there, too
		if a.attempts == 0 {
			level = zap.DebugLevel
		}
		if c := a.endpoint.Logger.Check(level, logging.Delivered); c != nil {
			c.Write(a.logFields()...)
		}
		tellHealth(a.endpoint, label, a.lane.health.succeeded(time.Now()), nil)
	case db.Retrying:
		result = resultFailed
		a.logFailure(zap.Duration("retry_in", outcome.Delay))
	default:
		result = string(outcome.Reason)
		a.logFailure()
		a.deadLetter(label, outcome.Reason)
	}
	if outcome.State != db.Delivered && outcome.Reason != db.Unrouted {
		tellHealth(a.endpoint, label, a.lane.health.failed(time.Now(), a.started), a.result.Err)
	}
	attemptsTotal.WithLabelValues(label, result).Inc()
}

// deadLetter tells that the delivery will not be tried again unless a person retries it.
func (a *attempt) deadLetter(label string, reason db.Reason) {
	deadLettersTotal.WithLabelValues(label, intercom.Label(a.note.Topic)).Inc()
	a.lane.deadLetterLog(a.endpoint).Warn("notification is a dead letter: it is kept, and can be retried",
		append(a.logFields(), zap.String("reason", string(reason)))...)
	a.endpoint.Events.Emit(events.DeadLetter, func() map[string]any {
		return map[string]any{
			"id": a.note.NotificationID, "topic": a.note.Topic, "app_id": a.note.Workspace, "lane": label,
			"delivery": a.id, "attempt": a.attempts + 1, "reason": string(reason),
			"upstream": a.result.Upstream, "status": a.result.Status, "error": a.result.Err.Error(),
		}
	})
}

// logFailure logs a failed attempt at INFO: the notification is kept, and what an operator
// must know about a lane or a dead letter is a warning of its own.
func (a *attempt) logFailure(more ...zap.Field) {
	if c := a.endpoint.Logger.Check(zap.InfoLevel, logging.NotDelivered); c != nil {
		c.Write(append(a.logFields(), more...)...)
	}
}

func (a *attempt) logFields() []zap.Field {
	return []zap.Field{zap.Inline(logging.Attempt{
		ID: a.note.NotificationID, Topic: a.note.Topic, AppID: a.note.Workspace,
		Lane: Label(a.delivery.lane), Number: a.attempts + 1,
		Upstream: a.result.Upstream, Status: a.result.Status, Duration: a.took, Err: a.result.Err,
	}), zap.Int64("delivery", a.id)}
}

// tellHealth logs, and emits as an event, that a lane has gone down or is no longer down.
func tellHealth(e *Endpoint, label string, change healthChange, err error) {
	if !change.changed {
		return
	}
	fields := []zap.Field{zap.String("lane", label), zap.Int("failed_attempts", change.failures), zap.Duration("after", change.after)}
	data := map[string]any{"lane": label, "failed_attempts": change.failures, "after": change.after.Seconds()}
	if change.down {
		data["error"] = err.Error()
		e.Logger.Warn("lane is down: notifications are kept, and tried again", append(fields, zap.Error(err))...)
		e.Events.Emit(events.LaneDown, func() map[string]any { return data })
		return
	}
	e.Logger.Info("lane is not down any more", fields...)
	e.Events.Emit(events.LaneUp, func() map[string]any { return data })
}
