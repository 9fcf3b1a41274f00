package intercomwebhook

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// Route is an ordinary route of Caddy for notifications, with a lane. Usually it has an
// `intercom_topic` matcher, and an `intercom_workspace` matcher if it is for some workspaces.
type Route struct {
	caddyhttp.Route

	// The name of the route in logs and metrics, and of its lane in a queue:
	// lower-case letters and digits, joined by single `-` or `_`, at most 64 characters.
	// Default: a name made from the first topic pattern, such as `conversation-user`
	// for `conversation.user.*`, and `default` for `*`. If an earlier route has that name,
	// the number of the route follows, counted from 0.
	Lane string `json:"lane,omitempty"`
}

// Copy is a route for copies of notifications. Each notification that fits is stored once
// more for it, together with the notification, and is delivered from a lane of its own.
// Whatever becomes of the copy, the delivery of the notification and the answer to Intercom
// stay as they are.
//
// The matchers are evaluated when the notification is stored. Its lane must differ from
// those of the routes and of other copies. By default, it is made from the first topic
// pattern, as for routes, with `copy-` before it. It gets no number, because stored copies
// go to the copy that has their lane.
type Copy struct {
	Route

	// How many of the notifications are copied, in percent: over 0, and at most 100. The
	// hash of a notification's id decides, so that it is the same when Intercom sends it
	// again. A notification without an id is always copied. Default: 100.
	Sample *float64 `json:"sample,omitempty"`

	// The secret with which the copy is signed in place of Intercom's signature, such as
	// the client secret of a staging app. Placeholders are expanded as those of
	// `client_secrets`; of a file with several secrets, the first one signs. Default: the
	// copy has Intercom's signature.
	Resign string `json:"resign,omitempty"`
}

// route is a Route or Copy that can run.
type route struct {
	lane      string
	matchers  caddyhttp.MatcherSets
	handler   caddyhttp.Handler
	namesPing bool

	sample  float64          // of a copy, in percent
	signing *secrets.Secrets // of a copy that is signed anew; nil: the signature stays
}

// provisionRoutes makes the routes able to run. A route without a lane gets one.
func provisionRoutes(ctx caddy.Context, configured []Route, lanes laneSet) ([]route, error) {
	routes := make([]route, 0, len(configured))
	var covered []coverage // always goes to one of the routes so far
	for i := range configured {
		c := &configured[i]
		if err := c.Provision(ctx, nil); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		possible, certain := coverageOf(c.MatcherSets)
		if err := checkReachable(possible, covered); err != nil {
			return nil, fmt.Errorf("route %d %w", i, err)
		}
		covered = append(covered, certain...)
		byDefault := lanename.Default("", patternsOf(c.MatcherSets))
		if lanes[byDefault] {
			byDefault = fmt.Sprintf("%s-%d", byDefault, i)
		}
		one, err := newRoute(*c, byDefault, lanes)
		if err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		routes = append(routes, one)
	}
	return routes, nil
}

// provisionCopies makes the copies able to run.
func provisionCopies(ctx caddy.Context, configured []Copy, lanes laneSet, logger *zap.Logger) ([]route, error) {
	var copies []route
	for i := range configured {
		one, err := provisionCopy(ctx, &configured[i], lanes, logger)
		if err != nil {
			return nil, fmt.Errorf("copy %d: %w", i, err)
		}
		copies = append(copies, one)
	}
	return copies, nil
}

func provisionCopy(ctx caddy.Context, c *Copy, lanes laneSet, logger *zap.Logger) (one route, err error) {
	sample := *cmp.Or(c.Sample, new(100.0))
	if err := checkSample(sample); err != nil {
		return one, err
	}
	if err := c.Provision(ctx, nil); err != nil {
		return one, err
	}
	if one, err = newRoute(c.Route, lanename.Default(lanename.CopyPrefix, patternsOf(c.MatcherSets)), lanes); err != nil {
		return one, err
	}
	one.sample = sample
	if c.Resign != "" {
		one.signing, err = secrets.NewSigning("resign", c.Resign, logger)
	}
	return one, err
}

func checkSample(percent float64) error {
	if !(percent > 0 && percent <= 100) { // NaN, too
		return fmt.Errorf("sample must be over 0%% and at most 100%%, not %v%%", percent)
	}
	return nil
}

// newRoute returns the provisioned route so that it can run.
func newRoute(c Route, defaultLane string, lanes laneSet) (route, error) {
	one := route{
		lane:      cmp.Or(c.Lane, defaultLane),
		matchers:  c.MatcherSets,
		namesPing: slices.Contains(patternsOf(c.MatcherSets), intercom.TopicPing),
	}
	failover.Prepare(c.Handlers)
	// The handler does not evaluate the matchers again, and calls no handler after the route.
	c.MatcherSets, c.Group, c.Terminal = nil, "", false
	one.handler = c.Compile(shield.Unhandled)
	return one, lanes.add(one.lane)
}

// laneSet has the lanes of the routes and copies so far.
type laneSet map[string]bool

func (l laneSet) add(name string) error {
	if l[name] {
		return fmt.Errorf("another route or copy already has the lane %q: give this one another lane with `as <lane>`", name)
	}
	l[name] = true
	return lanename.Check(name)
}

// fits reports whether the request fits the route. A ping fits only routes that name it.
// A matcher may panic.
func (r *route) fits(request *http.Request, topic string) (bool, error) {
	if topic == intercom.TopicPing && !r.namesPing {
		return false, nil
	}
	fits, err := r.matchers.AnyMatchWithError(request)
	if err != nil { // its text is not used, because it may quote the request
		return false, fmt.Errorf("a matcher of route %s failed", r.lane)
	}
	return fits, nil
}

// fitsInSample reports whether the notification fits the copy, and is in its sample.
func (r *route) fitsInSample(request *http.Request, t *tag) (fits bool, err error) {
	defer shield.CatchPanic(&err)
	fits, err = r.fits(request, t.Topic)
	return fits && inSample(t.ID, r.sample), err
}

// inSample reports whether a notification is among so many percent of all. The sample of a
// lower percentage is part of that of a higher one.
func inSample(id string, percent float64) bool {
	if id == "" || percent >= 100 {
		return true
	}
	hash := sha256.Sum256([]byte(id))
	return float64(binary.BigEndian.Uint64(hash[:]))/math.MaxUint64*100 < percent
}

// resign signs a copy anew, if it has a secret of its own.
func (r *route) resign(header http.Header, body []byte) {
	if r.signing == nil {
		return
	}
	delete(header, signature.Body.Header)
	scheme := schemeOf(header)
	header[scheme.Header] = []string{r.signing.Keys()[0].Header(scheme, body)}
}

// explain reports whether a notification fits the route, or says why it does not or may not.
func (r *route) explain(request *http.Request, topic string) (fits bool, why string) {
	if topic == intercom.TopicPing && !r.namesPing {
		return false, "only a topic pattern that names ping fits a ping"
	}
	if len(r.matchers) == 0 {
		return true, ""
	}
	for _, set := range r.matchers {
		switch reason := explainMatchers(set, request); {
		case reason == "":
			return true, ""
		case why == "" || reason == hasOtherMatchers:
			why = reason
		}
	}
	return false, why
}

// Lane is the lane of a route or a copy.
type Lane struct {
	Name string
	Copy bool
}

func (l Lane) kind() string {
	if l.Copy {
		return "copy"
	}
	return "route"
}

// ErrUnrouted is the error for a notification that the current config cannot deliver: no
// route fits or has the lane, or no handler of the route answers.
var ErrUnrouted = errors.New("unrouted")

// router has the routes and copies of a handler.
type router struct {
	routes []route
	copies []route
	label  func(lane string) string // the name of a lane in metrics and logs

	logger      *zap.Logger
	floodLogger *zap.Logger
}

// lanes returns the lanes of the routes, and then those of the copies.
func (a *router) lanes() []Lane {
	var lanes []Lane
	for _, route := range a.routes {
		lanes = append(lanes, Lane{Name: route.lane})
	}
	for _, one := range a.copies {
		lanes = append(lanes, Lane{Name: one.lane, Copy: true})
	}
	return lanes
}

// match returns the first route that fits the notification, or an error.
func (a *router) match(r *http.Request, topic string) (fitting *route, err error) {
	defer shield.CatchPanic(&err)
	for i := range a.routes {
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
			if some[i].lane == lane {
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
			explained.Lane = a.routes[i].lane
			break
		}
		explained.Passed = append(explained.Passed, adminapi.Passed{Lane: a.routes[i].lane, Why: why})
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
