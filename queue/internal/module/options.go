package module

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// Options are the options that the queues of all engines have.
type Options struct {
	// The name of the endpoint, which tells handlers that share a database apart: lower-case letters and digits,
	// joined by single `-` or `_`, 32 at most. Default: `intercom`.
	Name string `json:"name,omitempty"`

	// How many deliveries of a lane run at once on this instance, 1 to 10000. Default: 16.
	Workers int `json:"workers,omitempty"`

	// Options for single lanes, by the name of the lane.
	Lanes map[string]Lane `json:"lanes,omitempty"`

	// How long a backend may take to answer, 1ms to 1h. Default: 30s.
	DeliveryTimeout caddy.Duration `json:"delivery_timeout,omitempty"`

	// How many attempts to deliver a notification are made before it becomes a dead letter, 1 to 1000. Default: 0,
	// which is no limit: only `max_age` decides.
	MaxAttempts int `json:"max_attempts,omitempty"`

	// Once a notification is so old, counted from its receipt, the next failed attempt makes it a dead letter; 1ms to
	// 1 year. Default: 72h.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How long delivered notifications are kept, so that they can be looked at and their duplicates are recognized,
	// 1ms to 10 years. Default: 24h.
	KeepDelivered caddy.Duration `json:"keep_delivered,omitempty"`

	// How long dead letters are kept, 1ms to 10 years. Default: 720h.
	KeepDead caddy.Duration `json:"keep_dead,omitempty"`
}

// Lane are the options for one lane.
type Lane struct {
	// How many deliveries of this lane run at once on this instance, 1 to 10000. Default: the queue's `workers`.
	Workers int `json:"workers,omitempty"`
}

const (
	maxNameLength = 32
	maxWorkers    = 10_000
)

// setting is an option that is a number from 1 or a duration from 1ms.
type setting struct {
	name           string
	number         *int // one of both is set
	duration       *caddy.Duration
	standard, most int64 // a number without a default may be left out
}

func (o *Options) settings() []setting {
	const hour = int64(time.Hour)
	return []setting{
		{"workers", &o.Workers, nil, 16, maxWorkers},
		{"delivery_timeout", nil, &o.DeliveryTimeout, hour / 120, hour},
		{"max_attempts", &o.MaxAttempts, nil, 0, 1000},
		{"max_age", nil, &o.MaxAge, 72 * hour, int64(option.Year)},
		{"keep_delivered", nil, &o.KeepDelivered, 24 * hour, 10 * int64(option.Year)},
		{"keep_dead", nil, &o.KeepDead, 720 * hour, 10 * int64(option.Year)},
	}
}

// complete sets the option to its default if it is not given, and checks it.
func (s setting) complete() error {
	if s.duration != nil {
		*s.duration = cmp.Or(*s.duration, caddy.Duration(s.standard))
		return option.CheckDuration(s.name, time.Duration(*s.duration), time.Duration(s.most))
	}
	*s.number = cmp.Or(*s.number, int(s.standard))
	if *s.number == 0 && s.standard == 0 {
		return nil
	}
	return s.checkNumber()
}

func (s setting) checkNumber() error {
	if *s.number < 1 || int64(*s.number) > s.most {
		return fmt.Errorf("%s must be from 1 to %d, not %d", s.name, s.most, *s.number)
	}
	return nil
}

// unmarshal parses the value that follows the name of the option.
func (s setting) unmarshal(d *caddyfile.Dispenser) (err error) {
	if s.duration != nil {
		*s.duration, err = option.ParseDuration(d, option.UpTo(time.Duration(s.most)))
		return err
	}
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	if *s.number, err = strconv.Atoi(text); err != nil {
		return d.Errf("%s %q is not a number", s.name, text)
	}
	return at(d, s.checkNumber())
}

func (l *Lane) workers() setting { return setting{"workers", &l.Workers, nil, 0, maxWorkers} }

// complete sets the options that are not given to their defaults, and returns an error for the first one that is not
// valid. In a Caddyfile, options are checked before, so that the error has their line.
func (o *Options) complete() error {
	o.Name = cmp.Or(o.Name, worker.DefaultEndpoint)
	if err := checkName(o.Name); err != nil {
		return err
	}
	for _, s := range o.settings() {
		if err := s.complete(); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Lanes)) {
		lane := o.Lanes[name]
		if err := lane.workers().checkNumber(); err != nil {
			return fmt.Errorf("lane %s: %w", name, err)
		}
	}
	return nil
}

// CheckLanes returns an error if an option is for a lane that no route or copy has, or if the name of a lane is
// reserved. It is part of intercomwebhook.Queue; a Caddyfile calls it before the queue is provisioned.
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
		DeliveryTimeout: time.Duration(o.DeliveryTimeout), MaxAge: time.Duration(o.MaxAge), MaxAttempts: o.MaxAttempts,
		KeepDelivered: time.Duration(o.KeepDelivered), KeepDead: time.Duration(o.KeepDead), Workers: o.Workers, LaneWorkers: lanes,
	}
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

func checkName(name string) error {
	if len(name) > maxNameLength || !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: give lower-case letters and digits, joined by single - or _, %d at most", name, maxNameLength)
	}
	return nil
}

// Unmarshal parses the block of options of a queue, whose syntax stands at UnmarshalCaddyfile of the engines. ownName
// is the one option that only this engine has; its value is checked by checkOwn, which may be nil, and stored in own.
func (o *Options) Unmarshal(d *caddyfile.Dispenser, ownName string, own *string, checkOwn func(string) error) error {
	names := []string{ownName, "name", "workers", "lane"}
	settings := make(map[string]setting)
	for _, s := range o.settings() {
		settings[s.name] = s
		if !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if name != "lane" && seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch {
		case name == ownName:
			err = unmarshalText(d, own, checkOwn)
		case name == "name":
			err = unmarshalText(d, &o.Name, checkName)
		case name == "lane":
			err = o.unmarshalLane(d)
		case slices.Contains(names, name):
			err = settings[name].unmarshal(d)
		default:
			err = d.Errf("unknown option %s of queue: it has %s", name, option.Choices(name, names))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func unmarshalText(d *caddyfile.Dispenser, text *string, check func(string) error) error {
	if !d.AllArgs(text) || *text == "" {
		return d.ArgErr()
	}
	if check == nil {
		return nil
	}
	return at(d, check(*text))
}

func (o *Options) unmarshalLane(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	if _, given := o.Lanes[name]; given {
		return d.Errf("lane %s is given twice", name)
	}
	var lane Lane
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "workers" {
			return d.Errf("unknown option %s of a lane: it has %s", d.Val(), option.Choices(d.Val(), []string{"workers"}))
		}
		if lane.Workers != 0 {
			return d.Err("workers is given twice")
		}
		if err := lane.workers().unmarshal(d); err != nil {
			return err
		}
	}
	if lane.Workers == 0 {
		return d.Errf("lane %s has no option: give it one, as in { workers 4 }", name)
	}
	if o.Lanes == nil {
		o.Lanes = make(map[string]Lane)
	}
	o.Lanes[name] = lane
	return nil
}

// at adds the file and the line to an error. It returns nil for nil.
func at(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}
