package queue

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// Options are the options that the queues of all engines have.
type Options struct {
	// The name of the endpoint, which tells handlers that share a database apart:
	// lower-case letters and digits, joined by single `-` or `_`, 32 at most.
	// Default: `intercom`.
	Name string `json:"name,omitempty"`

	// How many deliveries of a lane run at once on this instance, 1 to 10000.
	// Default: 16.
	Workers int `json:"workers,omitempty"`

	// Options for single lanes, by the name of the lane.
	Lanes map[string]Lane `json:"lanes,omitempty"`

	// Names of endpoints that no handler has any more, such as the name that this one had
	// before. This handler delivers their notifications. Only one handler of a database may
	// adopt a name. Default: none.
	Adopt []string `json:"adopt,omitempty"`

	// How long a backend may take to answer, 1ms to 1h. Default: 30s.
	DeliveryTimeout caddy.Duration `json:"delivery_timeout,omitempty"`

	// How many attempts to deliver a notification are made before it becomes a dead
	// letter, 1 to 1000. Default: 20.
	MaxAttempts int `json:"max_attempts,omitempty"`

	// Once a notification is so old, counted from its receipt, the next failed attempt
	// makes it a dead letter; 1ms to 1 year. Default: 72h.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How long delivered notifications are kept, so that they can be looked at and their
	// duplicates are recognized, 1ms to 10 years. Default: 24h.
	KeepDelivered caddy.Duration `json:"keep_delivered,omitempty"`

	// How long dead letters are kept, 1ms to 10 years. Default: 720h.
	KeepDead caddy.Duration `json:"keep_dead,omitempty"`
}

// Lane are the options for one lane.
type Lane struct {
	// How many deliveries of this lane run at once on this instance, 1 to 10000.
	// Default: the queue's `workers`.
	Workers int `json:"workers,omitempty"`
}

const (
	defaultName            = "intercom"
	defaultWorkers         = 16
	defaultDeliveryTimeout = 30 * time.Second
	defaultMaxAttempts     = 20
	defaultMaxAge          = 72 * time.Hour
	defaultKeepDelivered   = 24 * time.Hour
	defaultKeepDead        = 720 * time.Hour

	maxNameLength  = 32
	maxQueueLength = 64     // River's limit
	maxWorkers     = 10_000 // River's limit
	maxAttempts    = 1000
)

// setDefaults sets the options that are not given to their defaults.
func (o *Options) setDefaults() {
	o.Name = cmp.Or(o.Name, defaultName)
	o.Workers = cmp.Or(o.Workers, defaultWorkers)
	o.DeliveryTimeout = cmp.Or(o.DeliveryTimeout, caddy.Duration(defaultDeliveryTimeout))
	o.MaxAttempts = cmp.Or(o.MaxAttempts, defaultMaxAttempts)
	o.MaxAge = cmp.Or(o.MaxAge, caddy.Duration(defaultMaxAge))
	o.KeepDelivered = cmp.Or(o.KeepDelivered, caddy.Duration(defaultKeepDelivered))
	o.KeepDead = cmp.Or(o.KeepDead, caddy.Duration(defaultKeepDead))
}

// check returns an error for the first option that is not valid. In a Caddyfile, options
// are checked before, so that the error has their line.
func (o *Options) check() error {
	checks := []error{
		checkName(o.Name),
		checkNumber("workers", o.Workers, maxWorkers),
		option.CheckDuration("delivery_timeout", time.Duration(o.DeliveryTimeout), time.Hour),
		checkNumber("max_attempts", o.MaxAttempts, maxAttempts),
		option.CheckDuration("max_age", time.Duration(o.MaxAge), option.Year),
		option.CheckDuration("keep_delivered", time.Duration(o.KeepDelivered), 10*option.Year),
		option.CheckDuration("keep_dead", time.Duration(o.KeepDead), 10*option.Year),
	}
	checks = append(checks, o.checkAdopt())
	for name, lane := range o.Lanes {
		if err := checkNumber("workers", lane.Workers, maxWorkers); err != nil {
			checks = append(checks, fmt.Errorf("lane %s: %w", name, err))
		}
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkAdopt returns an error if an adopted name is not valid, the endpoint's own, or given twice.
func (o *Options) checkAdopt() error {
	for i, name := range o.Adopt {
		if err := checkName(name); err != nil {
			return err
		}
		switch {
		case name == cmp.Or(o.Name, defaultName):
			return fmt.Errorf("adopt %s: this is the queue's own name; name only endpoints that no handler has any more", name)
		case slices.Contains(o.Adopt[:i], name):
			return fmt.Errorf("adopt %s: the name is given twice", name)
		}
	}
	return nil
}

// CheckLanes returns an error if an option is for a lane that no route or copy has, or if the name
// of a lane is too long for a River queue or reserved.
func (o *Options) CheckLanes(lanes []string) error {
	for _, lane := range lanes {
		if lane == unroutedLane {
			return fmt.Errorf("lane %q: the name is reserved for what fits no route: give the route or copy another one with `as`", lane)
		}
		if queue := riverQueue(cmp.Or(o.Name, defaultName), lane); len(queue) > maxQueueLength {
			return fmt.Errorf("lane %q: the name is too long: together with the name of the queue it may have %d characters at most", lane, maxQueueLength-1)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Lanes)) {
		if !slices.Contains(lanes, name) {
			return fmt.Errorf("lane %q: no route or copy has this lane; the lanes are %s", name, strings.Join(lanes, ", "))
		}
	}
	return nil
}

// delivers reports whether the handler with these options delivers the notifications of an
// endpoint: its own, or one that it has adopted.
func (o *Options) delivers(endpoint string) bool {
	return o.Name == endpoint || slices.Contains(o.Adopt, endpoint)
}

// workers returns how many deliveries of a lane run at once.
func (o *Options) workers(lane string) int {
	return cmp.Or(o.Lanes[lane].Workers, o.Workers)
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

func checkName(name string) error {
	if len(name) > maxNameLength || !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: give lower-case letters and digits, joined by single - or _, %d at most", name, maxNameLength)
	}
	return nil
}

func checkNumber(name string, n, most int) error {
	if n < 1 || n > most {
		return fmt.Errorf("%s must be from 1 to %d, not %d", name, most, n)
	}
	return nil
}
