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

// Parameters are those of a request, by name, as they are written.
type Parameters map[string][]string

// ParseParameters returns the parameters of a query. It refuses all but the known ones.
func ParseParameters(query string, known []string) (Parameters, error) {
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
	return Parameters(p), nil
}

// notText reports whether a value is not UTF-8, or has a zero byte. PostgreSQL knows neither.
func notText(value string) bool {
	return !utf8.ValidString(value) || strings.ContainsRune(value, 0)
}

// One returns the value of a parameter that may be given once; empty if it is not given.
func (p Parameters) One(name string) string {
	if len(p[name]) == 0 {
		return ""
	}
	return p[name][0]
}

// selection returns what the parameters select of an endpoint. The time is the database's.
func (p Parameters) selection(endpoint string, now time.Time, ofChange bool) (s Selection, err error) {
	s.Filter = db.Filter{Endpoint: endpoint, Topic: p.One("topic"), Lane: p.One("lane"), Workspace: p.One("workspace"), Error: p.One("error")}
	var errs [7]error
	s.Filter.States, errs[0] = choices(p, "state", db.States)
	s.Filter.Reasons, errs[1] = choices(p, "reason", db.Reasons)
	s.Notifications, errs[2] = choices[string](p, "notification", nil)
	s.Filter.Since, errs[3] = p.time("since", now)
	s.Filter.Until, errs[4] = p.time("until", now)
	s.Cursor, errs[5] = parseCursor(p.One("cursor"), ofChange)
	if s.Filter.Topic != "" {
		errs[6] = topicpattern.Check(s.Filter.Topic)
	}
	for _, err := range errs {
		if err != nil {
			return s, err
		}
	}
	if text := p.One("limit"); text != "" {
		if s.Limit, err = strconv.Atoi(text); err != nil || s.Limit < 1 {
			return s, fmt.Errorf("limit %q: give a number from 1", text)
		}
	}
	return s, nil
}

// choices returns the values of a parameter that may be given several times, or with commas.
// Without valid ones, it refuses only empty ones.
func choices[T ~string](p Parameters, name string, valid []T) (chosen []T, err error) {
	for _, text := range p[name] {
		for one := range strings.SplitSeq(text, ",") {
			value := T(strings.TrimSpace(one))
			switch {
			case value == "":
				return nil, fmt.Errorf("%s %q: a value is empty", name, text)
			case valid != nil && !slices.Contains(valid, value):
				return nil, fmt.Errorf("%s %q: there is no such %[1]s; they are %[3]s", name, one, option.Choices(one, Names(valid)))
			}
			chosen = append(chosen, value)
		}
	}
	return chosen, nil
}

// Names returns states or reasons as text.
func Names[T ~string](values []T) []string {
	names := make([]string, len(values))
	for i, value := range values {
		names[i] = string(value)
	}
	return names
}

// time returns the time of a parameter: RFC 3339, or how long it is ago.
func (p Parameters) time(name string, now time.Time) (time.Time, error) {
	text := p.One(name)
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	ago, err := caddy.ParseDuration(text)
	if err != nil || ago < 0 {
		return time.Time{}, fmt.Errorf("%s %q: give a time as in 2026-11-25T08:00:00Z, or how long ago it is, as in 2h or 3d", name, text)
	}
	return now.Add(-ago), nil
}

// bool returns the value of a parameter that is true or false; false if it is not given.
func (p Parameters) bool(name string) (bool, error) {
	text := p.One(name)
	if text != "" && text != "true" && text != "false" {
		return false, fmt.Errorf("%s %q: give true or false", name, text)
	}
	return text == "true", nil
}

// List returns what the parameters say about a list.
func (p Parameters) List(e Endpoint) (Selection, error) {
	s, err := p.selection(e.Name, e.Worker.Now(), false)
	if err == nil && s.Limit > maxLimit {
		err = fmt.Errorf("limit %d: a list has %d at most; its last line has the cursor to go on with", s.Limit, maxLimit)
	}
	if err != nil {
		return s, BadRequest(err)
	}
	s.Limit = cmp.Or(s.Limit, defaultLimit)
	return s, nil
}

// Change returns what the parameters say about a change of deliveries of an endpoint.
func (p Parameters) Change(e Endpoint, v Verb, who string) (Change, error) {
	c := Change{Verb: v, To: p.One("to"), Who: who, What: url.Values(p).Encode()}
	if err := c.parse(p, e.Name, e.Worker.Now()); err != nil {
		return c, BadRequest(err)
	}
	if c.To != "" {
		return c, e.checkTo(c.To)
	}
	return c, nil
}

func (c *Change) parse(p Parameters, endpoint string, now time.Time) (err error) {
	switch {
	case !slices.ContainsFunc(filterParameters, func(name string) bool { return p[name] != nil }):
		return fmt.Errorf("%s needs a filter, such as state=dead, topic=conversation.* or since=2h", c.Verb)
	case c.To != "" && c.Verb != Retry && c.Verb != Resend:
		return fmt.Errorf("%s has no parameter to: only retry and resend deliver", c.Verb)
	case p["whole"] != nil && c.Verb != Erase:
		return fmt.Errorf("%s has no parameter whole: only erase rewrites the file", c.Verb)
	}
	if c.Selection, err = p.selection(endpoint, now, true); err != nil {
		return err
	}
	if c.DryRun, err = p.bool("dry_run"); err != nil {
		return err
	}
	if c.Whole, err = p.bool("whole"); err != nil {
		return err
	}
	if text := p.One("rate"); text != "" {
		c.Rate, err = strconv.ParseFloat(text, 64)
		if err != nil || !(c.Rate > 0 && c.Rate <= maxRate) { // this refuses NaN, too
			return fmt.Errorf("rate %q: give how many deliveries a second, as in 50 or 0.5, %d at most", text, maxRate)
		}
	}
	return nil
}
