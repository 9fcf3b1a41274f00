package manage

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	defaultLimit = 100
	maxLimit     = 1000 // of a list
	maxRate      = 1_000_000
)

// The names of the parameters: of all requests, of those that list deliveries, and of those
// that change them.
var (
	EndpointParameters = []string{"endpoint"}
	ListParameters     = slices.Concat(EndpointParameters, filterParameters, []string{"cursor", "limit"})
	ChangeParameters   = slices.Concat(ListParameters, []string{"dry_run", "to", "rate", "whole"})

	// Without one of these, a change would be one of everything.
	filterParameters = []string{"state", "reason", "topic", "lane", "workspace", "notification", "since", "until", "error"}

	repeatable = []string{"state", "reason", "notification"}
)

// ParseParameters returns the parameters of a query. It refuses all but the known ones.
func ParseParameters(query string, known []string) (url.Values, error) {
	p, err := url.ParseQuery(query)
	if err != nil {
		return nil, BadRequest(errors.New("the query is malformed: separate parameters by &, and escape other characters than letters and digits with %"))
	}
	for _, name := range slices.Sorted(maps.Keys(p)) {
		switch {
		case !slices.Contains(known, name):
			err = fmt.Errorf("%q: there is no such parameter; the parameters are %s", name, option.Choices(name, known))
		case slices.Contains(p[name], ""):
			err = fmt.Errorf("%q has no value: leave it out, or give it one", name)
		case slices.ContainsFunc(p[name], notText):
			err = fmt.Errorf("%q is not text: escape UTF-8 with %%, and leave out zero bytes", name)
		case len(p[name]) > 1 && !slices.Contains(repeatable, name):
			err = fmt.Errorf("%q is given more than once", name)
		}
		if err != nil {
			return nil, BadRequest(err)
		}
	}
	return p, nil
}

// notText reports whether a value is not UTF-8, or has a zero byte. PostgreSQL knows neither.
func notText(value string) bool {
	return !utf8.ValidString(value) || strings.ContainsRune(value, 0)
}

// Read returns what parameters say about a change of deliveries of the endpoint or, without a
// verb, about a list of them.
func (e Endpoint) Read(parameters url.Values, v Verb, who string) (Change, error) {
	c, err := read(parameters, v, e.Worker.Now())
	if err != nil {
		return c, BadRequest(err)
	}
	c.Filter.Endpoint, c.Who = e.Name, who
	if c.To != "" {
		err = e.checkTo(c.To)
	}
	return c, err
}

func read(parameters url.Values, v Verb, now time.Time) (c Change, err error) {
	r := &reader{Values: parameters, now: now}
	c = Change{Verb: v, To: r.Get("to"), Rate: r.rate(), DryRun: r.bool("dry_run"), Whole: r.bool("whole"), What: parameters.Encode()}
	c.Notifications, c.Limit = choices[string](r, "notification", nil), r.limit()
	c.Filter = db.Filter{
		States: choices(r, "state", db.States), Reasons: choices(r, "reason", db.Reasons), Topic: r.Get("topic"), Lane: r.Get("lane"),
		Workspace: r.Get("workspace"), Since: r.time("since"), Until: r.time("until"), Error: r.Get("error"),
	}
	if c.Filter.Topic != "" {
		r.check(topicpattern.Check(c.Filter.Topic))
	}
	c.Cursor, err = parseCursor(r.Get("cursor"), v != "")
	r.check(err)
	switch {
	case v == "" && c.Limit > maxLimit:
		r.fail("limit %d: a list has %d at most; its last line has the cursor to go on with", c.Limit, maxLimit)
	case v == "":
		c.Limit = cmp.Or(c.Limit, defaultLimit)
	case !slices.ContainsFunc(filterParameters, r.Has):
		r.fail("%s needs a filter, such as state=dead, topic=conversation.* or since=2h", v)
	case c.To != "" && verbs[v].action != db.Retry:
		r.fail("%s has no parameter to: only retry and resend deliver", v)
	case r.Has("whole") && v != Erase:
		r.fail("%s has no parameter whole: only erase rewrites the file", v)
	}
	return c, r.err
}

// reader reads parameters. It keeps the first error.
type reader struct {
	url.Values
	now time.Time // by the database's clock
	err error
}

func (r *reader) check(err error) { r.err = cmp.Or(r.err, err) }

func (r *reader) fail(format string, args ...any) { r.check(fmt.Errorf(format, args...)) }

// choices returns the values of a parameter that may be given several times, or with commas.
// Without valid ones, it refuses only empty ones.
func choices[T ~string](r *reader, name string, valid []T) (chosen []T) {
	for _, text := range r.Values[name] {
		for one := range strings.SplitSeq(text, ",") {
			value := T(strings.TrimSpace(one))
			if value == "" {
				r.fail("%s %q: a value is empty", name, text)
			} else if valid != nil && !slices.Contains(valid, value) {
				r.fail("%s %q: there is no such %[1]s; they are %[3]s", name, one, option.Choices(one, Names(valid)))
			}
			chosen = append(chosen, value)
		}
	}
	return chosen
}

// Names returns states, reasons or verbs as text.
func Names[T ~string](values []T) []string {
	names := make([]string, len(values))
	for i, value := range values {
		names[i] = string(value)
	}
	return names
}

// time returns the time of a parameter: RFC 3339, or how long it is ago.
func (r *reader) time(name string) time.Time {
	text := r.Get(name)
	if text == "" {
		return time.Time{}
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at
	}
	ago, err := caddy.ParseDuration(text)
	if err != nil || ago < 0 {
		r.fail("%s %q: give a time as in 2026-11-25T08:00:00Z, or how long ago it is, as in 2h or 3d", name, text)
	}
	return r.now.Add(-ago)
}

func (r *reader) bool(name string) bool {
	text := r.Get(name)
	if text != "" && text != "true" && text != "false" {
		r.fail("%s %q: give true or false", name, text)
	}
	return text == "true"
}

func (r *reader) limit() int {
	limit, err := strconv.Atoi(cmp.Or(r.Get("limit"), "0"))
	if r.Has("limit") && (err != nil || limit < 1) {
		r.fail("limit %q: give a number from 1", r.Get("limit"))
	}
	return limit
}

func (r *reader) rate() float64 {
	rate, err := strconv.ParseFloat(cmp.Or(r.Get("rate"), "0"), 64)
	if r.Has("rate") && (err != nil || !(rate > 0 && rate <= maxRate)) { // this refuses NaN, too
		r.fail("rate %q: give how many deliveries a second, as in 50 or 0.5, %d at most", r.Get("rate"), maxRate)
	}
	return rate
}
