package intercomwebhook

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// router has the routes and copies of a handler.
type router struct {
	routes []route
	copies []route
	fields *fields.Plan             // what conditions need of a body
	label  func(lane string) string // the name of a lane in metrics and logs

	logger      *zap.Logger
	floodLogger *zap.Logger
}

// lanes returns the lanes of the routes, and then those of the copies.
func (a *router) lanes() []Lane {
	var lanes []Lane
	for _, route := range a.routes {
		if !route.ignores {
			lanes = append(lanes, Lane{Name: route.lane})
		}
	}
	for _, one := range a.copies {
		lanes = append(lanes, Lane{Name: one.lane, Copy: true})
	}
	return lanes
}

// parse reads the envelope of a notification, and the fields that conditions need.
func (a *router) parse(t *tag, scheme *signature.Scheme, content []byte) (e envelope.Envelope, err error) {
	read := envelope.Parse
	if scheme == signature.Fin {
		read = envelope.ParseFin
	}
	if e, t.fields, err = read(content, a.fields); err == nil {
		t.content = content
	}
	return e, err
}

// match returns the first route that fits the notification, or an error. The route may be one
// that ignores the notification.
func (a *router) match(r *http.Request, topic string) (*route, error) {
	return a.matchAmong(r, topic, func(*route) bool { return true })
}

// matchStored is match for a notification that was stored for a route: what a later config
// ignores must not be lost.
func (a *router) matchStored(r *http.Request, topic string) (*route, error) {
	return a.matchAmong(r, topic, func(one *route) bool { return !one.ignores })
}

func (a *router) matchAmong(r *http.Request, topic string, among func(*route) bool) (fitting *route, err error) {
	defer shield.CatchPanic(&err)
	for i := range a.routes {
		if !among(&a.routes[i]) {
			continue
		}
		fits, err := a.routes[i].fits(r, topic)
		if err != nil {
			return nil, err
		}
		if fits {
			return &a.routes[i], nil
		}
	}
	return nil, fmt.Errorf("%w: no route for this topic", ErrUnrouted)
}

// ofLane returns the route or copy with the lane, whatever its matchers say.
func (a *router) ofLane(lane string) (*route, error) {
	for _, some := range [][]route{a.routes, a.copies} {
		for i := range some {
			if some[i].lane == lane && !some[i].ignores {
				return &some[i], nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no route or copy has the lane %q", ErrUnrouted, lane)
}

// run runs a route that was found, or returns why none was found.
func (a *router) run(r *http.Request, t *tag, route *route, err error) result {
	ran := result{Outcome: shield.Outcome{Err: err}}
	if route != nil {
		start := time.Now()
		ran = result{lane: route.lane, label: a.label(route.lane), Outcome: shield.Run(route.handler, r)}
		ran.duration = time.Since(start)
		if errors.Is(ran.Err, shield.ErrUnanswered) {
			ran.Err = fmt.Errorf("%w: %w", ErrUnrouted, ran.Err)
		} else {
			backendResponsesTotal.WithLabelValues(ran.label, codeLabel(ran.Status, ran.Err)).Inc()
			backendSeconds.WithLabelValues(ran.label).Observe(ran.duration.Seconds())
		}
	}
	if panicked, ok := errors.AsType[*shield.PanicError](ran.Err); ok {
		logPanic(a.floodLogger, panicked, zap.Inline(t), zap.Inline(ran))
	}
	return ran
}

// deliver runs the route that fits, and returns the outcome and the status for Intercom.
func (a *router) deliver(r *http.Request, t *tag) (outcome string, status int) {
	route, err := a.match(r, t.Topic)
	if route != nil && route.ignores {
		return a.ignored(t), http.StatusOK
	}
	t.result = a.run(r, t, route, err)
	if errors.Is(t.result.Err, ErrUnrouted) {
		// An error answer would count against the whole subscription.
		a.logger.Warn("notification is lost: no route answers it; add a route, such as route *, or an answer to the route that fits",
			zap.Inline(onlyAttempt(t)))
		return outcomeUnrouted, http.StatusOK
	}
	status = shield.Status(t.result.Status, t.result.Err)
	if status != http.StatusOK {
		a.logger.Warn(logging.NotDelivered, zap.Inline(onlyAttempt(t)), zap.Int("answered", status))
	} else if c := a.logger.Check(zap.DebugLevel, logging.Delivered); c != nil {
		c.Write(zap.Inline(onlyAttempt(t)))
	}
	return outcomeOf(status), status
}

// ignored logs that a notification is delivered to no route, and returns the outcome.
func (a *router) ignored(t *tag) (outcome string) {
	if c := a.logger.Check(zap.DebugLevel, "notification is ignored"); c != nil {
		c.Write(zap.Inline(t))
	}
	return outcomeIgnored
}

// onlyAttempt returns the attempt to deliver a notification without a queue, for logs.
func onlyAttempt(t *tag) logging.Attempt {
	return logging.Attempt{
		ID: t.ID, Topic: t.Topic, AppID: t.AppID, Lane: t.result.label, Number: 1,
		Upstream: t.result.Upstream, Status: t.result.Status, Duration: t.result.duration, Err: t.result.Err,
	}
}

// takesPing reports whether a ping goes to a route or is copied.
func (a *router) takesPing(r *http.Request, t *tag) bool {
	_, err := a.match(r, t.Topic)
	return !errors.Is(err, ErrUnrouted) || len(a.copiesOf(r, t)) > 0
}

// copiesOf returns the lanes of the copies that the notification fits. A copy whose matcher
// fails or panics gets none: what it is not meant to see must not go there.
func (a *router) copiesOf(r *http.Request, t *tag) (lanes []string) {
	for i := range a.copies {
		one := &a.copies[i]
		fits, err := one.fitsInSample(r, t)
		if fits {
			lanes = append(lanes, one.lane)
		}
		if err != nil {
			a.floodLogger.Error("notification is not copied: a matcher of the copy failed",
				zap.String("lane", a.label(one.lane)), zap.Inline(t), zap.Error(err))
		}
	}
	return lanes
}

// explain says where a notification goes, and why it goes nowhere else.
func (a *router) explain(r *http.Request, topic string) adminapi.Route {
	explained := adminapi.Route{Copies: []string{}, Passed: []adminapi.Passed{}}
	for i := range a.routes {
		fits, why := a.routes[i].explain(r, topic)
		if fits {
			explained.Lane, explained.Ignored = a.routes[i].lane, a.routes[i].ignores
			break
		}
		explained.Passed = append(explained.Passed, adminapi.Passed{Lane: cmp.Or(a.routes[i].lane, "ignore"), Why: why})
	}
	for i := range a.copies {
		one := &a.copies[i]
		if fits, why := one.explain(r, topic); fits {
			explained.Copies = append(explained.Copies, one.lane)
		} else {
			explained.Passed = append(explained.Passed, adminapi.Passed{Lane: one.lane, Why: why})
		}
	}
	return explained
}
