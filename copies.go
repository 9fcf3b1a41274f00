package intercomwebhook

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
)

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

// copyRoute is a Copy that can run.
type copyRoute struct {
	route
	sample float64 // in percent
}

// provisionCopies makes the copies able to run. A copy without a lane gets one.
func provisionCopies(ctx caddy.Context, configured []Copy, lanes laneSet, logger *zap.Logger) ([]copyRoute, error) {
	var copies []copyRoute
	for i := range configured {
		one, err := provisionCopy(ctx, &configured[i], lanes, logger)
		if err != nil {
			return nil, fmt.Errorf("copy %d: %w", i, err)
		}
		copies = append(copies, one)
	}
	return copies, nil
}

func provisionCopy(ctx caddy.Context, c *Copy, lanes laneSet, logger *zap.Logger) (one copyRoute, err error) {
	one.sample = 100
	if c.Sample != nil {
		one.sample = *c.Sample
	}
	if err := checkSample(one.sample); err != nil {
		return one, err
	}
	if err := c.Provision(ctx, nil); err != nil {
		return one, err
	}
	if one.route, err = newRoute(c.Route, lanename.Default(lanename.CopyPrefix, patternsOf(c.MatcherSets)), lanes); err != nil {
		return one, err
	}
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

// fitsInSample reports whether the notification fits the copy, and is in its sample.
func (c *copyRoute) fitsInSample(r *http.Request, t *tag) (fits bool, err error) {
	defer shield.CatchPanic(&err)
	fits, err = c.fits(r, t.Topic)
	return fits && inSample(t.ID, c.sample), err
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
