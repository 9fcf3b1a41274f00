package module

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
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
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

	// How long a backend may take to answer, 1ms to 1h. Default: 30s.
	DeliveryTimeout caddy.Duration `json:"delivery_timeout,omitempty"`

	// How many attempts to deliver a notification are made before it becomes a dead
	// letter, 1 to 1000. Default: 0, which is no limit: only `max_age` decides.
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
	defaultWorkers = 16

	maxNameLength = 32
	maxWorkers    = 10_000
	maxAttempts   = 1000
)

// duration is an option that is a duration.
type duration struct {
	name           string
	value          *caddy.Duration
	standard, most time.Duration
}

func (o *Options) durations() []duration {
	return []duration{
		{"delivery_timeout", &o.DeliveryTimeout, 30 * time.Second, time.Hour},
		{"max_age", &o.MaxAge, 72 * time.Hour, option.Year},
		{"keep_delivered", &o.KeepDelivered, 24 * time.Hour, 10 * option.Year},
		{"keep_dead", &o.KeepDead, 720 * time.Hour, 10 * option.Year},
	}
}

// complete sets the options that are not given to their defaults, and returns an error for
// the first one that is not valid. In a Caddyfile, options are checked before, so that the
// error has their line.
func (o *Options) complete() error {
	o.Name = cmp.Or(o.Name, worker.DefaultEndpoint)
	o.Workers = cmp.Or(o.Workers, defaultWorkers)
	errs := []error{checkName(o.Name), checkNumber("workers", o.Workers, maxWorkers)}
	if o.MaxAttempts != 0 {
		errs = append(errs, checkNumber("max_attempts", o.MaxAttempts, maxAttempts))
	}
	for _, d := range o.durations() {
		*d.value = cmp.Or(*d.value, caddy.Duration(d.standard))
		errs = append(errs, option.CheckDuration(d.name, time.Duration(*d.value), d.most))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Lanes)) {
		if err := checkNumber("workers", o.Lanes[name].Workers, maxWorkers); err != nil {
			errs = append(errs, fmt.Errorf("lane %s: %w", name, err))
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// CheckLanes returns an error if an option is for a lane that no route or copy has, or if the
// name of a lane is reserved. It is part of intercomwebhook.Queue; a Caddyfile calls it before
// the queue is provisioned.
func (o *Options) CheckLanes(lanes []string) error {
	if slices.Contains(lanes, worker.UnroutedLane) {
		return fmt.Errorf("lane %q: the name is reserved for what fits no route: give the route or copy another one with `as`", worker.UnroutedLane)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Lanes)) {
		if !slices.Contains(lanes, name) {
			return fmt.Errorf("lane %q: no route or copy has this lane; the lanes are %s", name, strings.Join(lanes, ", "))
		}
	}
	return nil
}

// forWorker returns the options as the worker has them.
func (o *Options) forWorker() worker.Options {
	lanes := make(map[string]int)
	for name, lane := range o.Lanes {
		lanes[name] = lane.Workers
	}
	return worker.Options{
		DeliveryTimeout: time.Duration(o.DeliveryTimeout),
		MaxAge:          time.Duration(o.MaxAge),
		MaxAttempts:     o.MaxAttempts,
		KeepDelivered:   time.Duration(o.KeepDelivered),
		KeepDead:        time.Duration(o.KeepDead),
		Workers:         o.Workers,
		LaneWorkers:     lanes,
	}
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
