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

	LaneOptions

	// Options for single lanes, by the name of the lane.
	Lanes map[string]Lane `json:"lanes,omitempty"`

	// How long delivered notifications are kept, so that they can be looked at and their duplicates are recognized,
	// 1ms to 10 years. Default: 24h.
	KeepDelivered caddy.Duration `json:"keep_delivered,omitempty"`

	// How long dead letters are kept, 1ms to 10 years. Default: 720h.
	KeepDead caddy.Duration `json:"keep_dead,omitempty"`
}

// LaneOptions are the options that a queue has for all lanes, and a lane for itself. The defaults of a lane are those
// of its queue.
type LaneOptions struct {
	// How many deliveries of a lane run at once on this instance, 1 to 10000. Default: 16.
	Workers int `json:"workers,omitempty"`

	// How long a backend may take to answer, 1ms to 1h. Default: 30s.
	DeliveryTimeout caddy.Duration `json:"delivery_timeout,omitempty"`

	// Once a notification is so old, counted from its receipt, the next failed attempt makes it a dead letter; 1ms to
	// 1 year. Default: 72h.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// How many attempts to deliver a notification are made before it becomes a dead letter, 1 to 1000. Default: 0,
	// which is no limit: only `max_age` decides.
	MaxAttempts int `json:"max_attempts,omitempty"`

	// The statuses of a backend after which no further attempt is made: 300 to 599, or 3, 4 or 5 for all that begin
	// with this digit. The notification is a dead letter at once, with the reason `refused`. Default: none.
	DeadOn []int `json:"dead_on,omitempty"`
}

// Lane are the options for one lane.
type Lane struct {
	LaneOptions

	// How many attempts are begun in a second at most, by all Caddys that share the database: more than 0, up to
	// 10000, as in 5 or 0.5. Each of them gets the same part of it. Default: 0, which is no limit.
	Rate float64 `json:"rate,omitempty"`

	// Delivers what is about the same object one after the other. Default: in no order.
	Ordered *Ordered `json:"ordered,omitempty"`
}

const (
	maxNameLength = 32
	maxWorkers    = 10_000
	maxRate       = 10_000
	hour          = caddy.Duration(time.Hour)
)

// setting is an option that is a number from 1 or a duration from 1ms.
type setting struct {
	name           string
	number         *int // one of both is set
	duration       *caddy.Duration
	standard, most int64 // a number without a default may be left out
}

// settings are the options with these defaults.
func (o *LaneOptions) settings(standard LaneOptions) []setting {
	return []setting{
		{"workers", &o.Workers, nil, int64(standard.Workers), maxWorkers},
		{"delivery_timeout", nil, &o.DeliveryTimeout, int64(standard.DeliveryTimeout), int64(hour)},
		{"max_age", nil, &o.MaxAge, int64(standard.MaxAge), int64(option.Year)},
		{"max_attempts", &o.MaxAttempts, nil, int64(standard.MaxAttempts), 1000},
	}
}

func (o *Options) settings() []setting {
	return append(o.LaneOptions.settings(LaneOptions{Workers: 16, DeliveryTimeout: hour / 120, MaxAge: 72 * hour}),
		setting{"keep_delivered", nil, &o.KeepDelivered, int64(24 * hour), 10 * int64(option.Year)},
		setting{"keep_dead", nil, &o.KeepDead, int64(720 * hour), 10 * int64(option.Year)})
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

// complete sets the options that are not given to their defaults, and returns an error for the first one that is not
// valid. In a Caddyfile, options are checked before, so that the error has their line.
func (o *Options) complete() error {
	o.Name = cmp.Or(o.Name, worker.DefaultEndpoint)
	if err := checkName(o.Name); err != nil {
		return err
	}
	if err := completeAll(o.settings(), o.DeadOn); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Lanes)) {
		lane := o.Lanes[name]
		err := completeAll(lane.settings(o.LaneOptions), lane.DeadOn)
		if err == nil && lane.Rate != 0 {
			err = checkRate(lane.Rate)
		}
		if err == nil {
			err = lane.Ordered.check()
		}
		if err != nil {
			return fmt.Errorf("lane %s: %w", name, err)
		}
		if lane.DeadOn == nil {
			lane.DeadOn = o.DeadOn
		}
		o.Lanes[name] = lane
	}
	return nil
}

func completeAll(settings []setting, deadOn []int) error {
	for _, s := range settings {
		if err := s.complete(); err != nil {
			return err
		}
	}
	return checkDeadOn(deadOn)
}

func checkDeadOn(statuses []int) error {
	for i, status := range statuses {
		if (status < 3 || status > 5) && (status < 300 || status > 599) {
			return fmt.Errorf("dead_on: %d is no status of a failed attempt: give 300 to 599, or 3xx, 4xx or 5xx", status)
		}
		if slices.Contains(statuses[:i], status) || status > 5 && slices.Contains(statuses, status/100) {
			return fmt.Errorf("dead_on: %s is given twice", (strconv.Itoa(status) + "xx")[:3])
		}
	}
	return nil
}

func checkRate(rate float64) error {
	if !(rate > 0 && rate <= maxRate) { // this refuses NaN, too
		return fmt.Errorf("rate must be more than 0 and at most %d attempts a second, as in 5/s, not %v", maxRate, rate)
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

// forWorker returns the options as the worker has them. They must be complete.
func (o *Options) forWorker() worker.Options {
	lanes := make(map[string]worker.LaneOptions)
	for name, lane := range o.Lanes {
		options := lane.forWorker()
		options.Rate = lane.Rate
		if lane.Ordered != nil {
			options.Ordered, options.OrderBy, options.Hold = true, lane.Ordered.By, time.Duration(lane.Ordered.Hold)
		}
		lanes[name] = options
	}
	return worker.Options{
		LaneOptions: o.LaneOptions.forWorker(), Lanes: lanes,
		KeepDelivered: time.Duration(o.KeepDelivered), KeepDead: time.Duration(o.KeepDead),
	}
}

func (o *LaneOptions) forWorker() worker.LaneOptions {
	return worker.LaneOptions{
		Workers: o.Workers, DeliveryTimeout: time.Duration(o.DeliveryTimeout), MaxAge: time.Duration(o.MaxAge),
		MaxAttempts: o.MaxAttempts, DeadOn: o.DeadOn,
	}
}

var namePattern = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

func checkName(name string) error {
	if len(name) > maxNameLength || !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: give lower-case letters and digits, joined by single - or _, %d at most", name, maxNameLength)
	}
	return nil
}

// blockOption is an option that can stand in a block of a Caddyfile, and what parses its value.
type blockOption struct {
	name  string
	parse func(*caddyfile.Dispenser) error
}

// Unmarshal parses the block of options of a queue, whose syntax stands at UnmarshalCaddyfile of the engines. ownName
// is the one option that only this engine has; its value is checked by checkOwn, which may be nil, and stored in own.
func (o *Options) Unmarshal(d *caddyfile.Dispenser, ownName string, own *string, checkOwn func(string) error) error {
	options := []blockOption{
		{ownName, func(d *caddyfile.Dispenser) error { return unmarshalText(d, own, checkOwn) }},
		{"name", func(d *caddyfile.Dispenser) error { return unmarshalText(d, &o.Name, checkName) }},
		{"lane", o.unmarshalLane},
	}
	return unmarshalBlock(d, "queue", append(options, blockOptions(o.settings(), &o.DeadOn)...))
}

// blockOptions returns the options that are settings, and dead_on.
func blockOptions(settings []setting, deadOn *[]int) (options []blockOption) {
	for _, s := range settings {
		options = append(options, blockOption{s.name, s.unmarshal})
	}
	return append(options, blockOption{"dead_on", func(d *caddyfile.Dispenser) (err error) {
		*deadOn, err = unmarshalStatuses(d)
		return err
	}})
}

// unmarshalBlock parses a block. Each option may stand there once, except lane.
func unmarshalBlock(d *caddyfile.Dispenser, of string, options []blockOption) error {
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		i := slices.Index(names, name)
		switch {
		case i < 0 && (name == "rate" || name == "ordered"):
			return d.Errf("%s is an option of a lane: put it into `lane <name> { … }`", name)
		case i < 0:
			return d.Errf("unknown option %s of %s: it has %s", name, of, option.Choices(name, names))
		case seen[name] && name != "lane":
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := options[i].parse(d); err != nil {
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
	options := append(blockOptions(lane.settings(LaneOptions{}), &lane.DeadOn), blockOption{"rate", lane.unmarshalRate}, blockOption{"ordered", lane.unmarshalOrdered})
	if err := unmarshalBlock(d, "a lane", options); err != nil {
		return err
	}
	if fmt.Sprint(lane) == fmt.Sprint(Lane{}) {
		return d.Errf("lane %s has no option: give it one, as in { workers 4 }", name)
	}
	if o.Lanes == nil {
		o.Lanes = make(map[string]Lane)
	}
	o.Lanes[name] = lane
	return nil
}

// unmarshalRate parses `rate <n>/s`.
func (l *Lane) unmarshalRate(d *caddyfile.Dispenser) (err error) {
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	number, perSecond := strings.CutSuffix(text, "/s")
	if l.Rate, err = strconv.ParseFloat(number, 64); err != nil || !perSecond {
		return d.Errf("rate %q: give how many attempts a second, as in 5/s or 0.5/s", text)
	}
	return at(d, checkRate(l.Rate))
}

// unmarshalStatuses parses `dead_on <statuses...>`.
func unmarshalStatuses(d *caddyfile.Dispenser) (statuses []int, err error) {
	for d.NextArg() {
		status, err := option.ParseStatus(d.Val())
		if err != nil {
			return nil, d.Errf("dead_on: %w", err)
		}
		statuses = append(statuses, status)
	}
	if statuses == nil {
		return nil, d.ArgErr()
	}
	return statuses, at(d, checkDeadOn(statuses))
}

// at adds the file and the line to an error. It returns nil for nil.
func at(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}
