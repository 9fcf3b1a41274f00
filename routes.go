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

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
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

	// Answer the notifications that fit with 200, and neither deliver nor store them. Copies
	// get them all the same. Such a route has no lane and no handlers. What was stored before
	// is not ignored: it goes to the first other route that fits. Default: false.
	Ignore bool `json:"ignore,omitempty"`

	// Deliver only the first of several notifications with the same value of a field. It needs
	// a queue. Default: deliver all.
	Once *Once `json:"once,omitempty"`
}

// Once says which notifications of a route are twins: different ones, with different ids, about
// the same. The first of them is delivered, and the others are ignored. Those of different
// workspaces are no twins. A notification without the field is delivered.
type Once struct {
	// The field whose text is the same, as in a condition of `intercom_field`. If it has a
	// `*`, the first element counts.
	Field string `json:"field,omitempty"`

	// How long after the first one the others are ignored: over 0, and at most 24h.
	Within caddy.Duration `json:"within,omitempty"`
}

const maxOnce = 24 * time.Hour

func (o *Once) check() error {
	if err := fields.CheckPath(o.Field); err != nil {
		return fmt.Errorf("once: %w", err)
	}
	if o.Within <= 0 || time.Duration(o.Within) > maxOnce {
		return fmt.Errorf("once: the duration must be over 0 and at most %s, not %s", maxOnce, time.Duration(o.Within))
	}
	return nil
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
	ignores   bool // it has no lane and no handler
	once      struct {
		field  int // the number in the router's fields
		within time.Duration
	}

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
			byDefault = lanename.Numbered(byDefault, i)
		}
		one, err := newRoute(*c, byDefault, lanes)
		if err == nil {
			err = one.provisionOnce(ctx, c.Once)
		}
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
	if c.Ignore || c.Once != nil {
		return one, errors.New("a copy has neither ignore nor once: they are for routes")
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
		ignores:   c.Ignore,
	}
	switch {
	case c.Ignore && (c.Lane != "" || len(c.Handlers) > 0 || c.Once != nil):
		return one, errors.New("ignore: it delivers nothing, and has neither a lane nor once nor handlers")
	case c.Ignore:
		one.lane = ""
		return one, nil
	}
	failover.Prepare(c.Handlers)
	// The handler does not evaluate the matchers again, and calls no handler after the route.
	c.MatcherSets, c.Group, c.Terminal = nil, "", false
	one.handler = c.Compile(shield.Unhandled)
	return one, lanes.add(one.lane)
}

func (r *route) provisionOnce(ctx caddy.Context, once *Once) error {
	if once == nil {
		return nil
	}
	if err := once.check(); err != nil {
		return err
	}
	plan, err := loadFields(ctx)
	if err != nil {
		return err
	}
	r.once.field, r.once.within = plan.Want(once.Field), time.Duration(once.Within)
	return nil
}

// laneSet has the lanes of the routes and copies so far.
type laneSet map[string]bool

func (l laneSet) add(name string) error {
	if l[name] {
		free := name
		for n := 2; l[free]; n++ {
			free = lanename.Numbered(name, n)
		}
		return fmt.Errorf("another route or copy already has the lane %q: give this one another lane, for example with `as %s` before its `to` or its block", name, free)
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
		return false, fmt.Errorf("a matcher of route %s failed", cmp.Or(r.lane, "ignore"))
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
