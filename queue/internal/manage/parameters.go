package manage

import (
	"cmp"
	"context"
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
	lookTime     = 20 * time.Millisecond
)

// The names of the parameters: of all requests, of those that list deliveries, and of those that change them.
var (
	EndpointParameters = []string{"endpoint"}
	LanesParameters    = slices.Concat(EndpointParameters, []string{"dead_letters"})
	ListParameters     = slices.Concat(EndpointParameters, filterParameters, []string{"cursor", "limit", "order"})
	ChangeParameters   = slices.Concat(EndpointParameters, filterParameters, []string{"cursor", "limit", "dry_run", "to", "rate", "whole"})

	// Without one of these, a change would be one of everything.
	filterParameters = []string{
		"state", "reason", "status", "topic", "lane", "workspace", "notification", "object", "since", "until", "finished_since", "finished_until", "error",
	}

	repeatable = []string{"state", "reason", "status", "notification"}
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

// Read returns what parameters say about a change of deliveries of the endpoint or, without a verb, about a list of
// them.
func Read(e Endpoint, parameters url.Values, v Verb, who string) (Change, error) {
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
	c = Change{Verb: v, To: r.Get("to"), Rate: r.rate(), DryRun: r.bool("dry_run"), Whole: r.bool("whole"), What: forLog(parameters)}
	c.Notifications, c.Limit = choices[string](r, "notification", nil), r.limit()
	c.Filter = db.Filter{
		States: choices(r, "state", db.States), Reasons: choices(r, "reason", db.Reasons), Topic: r.Get("topic"), Lane: r.Get("lane"),
		Workspace: r.Get("workspace"), Object: r.Get("object"), Since: r.time("since"), Until: r.time("until"),
		FinishedSince: r.time("finished_since"), FinishedUntil: r.time("finished_until"), Error: r.Get("error"),
	}
	for _, text := range choices[string](r, "status", nil) {
		status, err := option.ParseStatus(text)
		if err != nil {
			r.fail("status: %w", err)
		}
		c.Filter.Statuses = append(c.Filter.Statuses, status)
	}
	c.Oldest = slices.Contains(choices(r, "order", []string{"newest", "oldest"}), "oldest")
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

// WantsDeadLetters reports whether parameters ask for the dead letters of lanes.
func WantsDeadLetters(parameters url.Values) (bool, error) {
	r := &reader{Values: parameters}
	wanted := r.bool("dead_letters")
	if r.err != nil {
		return false, BadRequest(r.err)
	}
	return wanted, nil
}

// forLog returns the beginning of parameters, which can have thousands of ids.
func forLog(parameters url.Values) string {
	const most = 1000
	text := parameters.Encode()
	if len(text) > most {
		return fmt.Sprintf("%s… (%d bytes)", text[:most], len(text))
	}
	return text
}

// reader reads parameters. It keeps the first error.
type reader struct {
	url.Values
	now time.Time // by the database's clock
	err error
}

func (r *reader) check(err error) { r.err = cmp.Or(r.err, err) }

func (r *reader) fail(format string, args ...any) { r.check(fmt.Errorf(format, args...)) }

// choices returns the values of a parameter that may be given several times, or with commas. Without valid ones, it
// refuses only empty ones.
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

// timeLayouts are those in which times are printed: by the admin API and the command line, by the pages, and by psql.
var timeLayouts = []string{time.RFC3339, "2006-01-02 15:04:05 UTC", "2006-01-02 15:04:05Z07", "2006-01-02 15:04:05Z07:00"}

// time returns the time of a parameter: one of timeLayouts, or how long it is ago.
func (r *reader) time(name string) time.Time {
	text := r.Get(name)
	if text == "" {
		return time.Time{}
	}
	for _, layout := range timeLayouts {
		if at, err := time.Parse(layout, text); err == nil {
			return at
		}
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

// Selection says which deliveries to list or to change.
type Selection struct {
	Filter        db.Filter // without Notification
	Notifications []string  // only these; nil: all
	ID            int64     // only this delivery; 0: all
	Cursor        Cursor
	Limit         int  // how many at most; 0: all
	Oldest        bool // List begins with the oldest
}

// each calls do with the selected deliveries, a page at a time. It pauses after each look at the database for as long
// as that took, so that storing gets the processors. The cursor is behind what do has had; after the last delivery,
// it is that of the start. wait, if there is one, may pause for longer, and change the page.
func (s *Selection) each(ctx context.Context, in db.Inspector, page *db.Page, do func([]db.Delivery) error, wait func() error) error {
	if s.ID != 0 {
		return do([]db.Delivery{{ID: s.ID}})
	}
	notifications := s.Notifications
	if notifications == nil {
		notifications = []string{""}
	}
	left := s.Limit
	for s.Cursor.Part < len(notifications) {
		if s.Limit > 0 {
			page.Limit = min(page.Limit, left)
		}
		began := time.Now()
		found, at, err := s.look(ctx, in, *page, notifications)
		look := time.Since(began)
		if err == nil {
			err = do(found)
		}
		if err != nil {
			return err
		}
		s.Cursor = at
		if left -= len(found); s.Cursor.Part == len(notifications) {
			break
		}
		if s.Limit > 0 && left == 0 {
			return nil
		}
		if wait != nil {
			err = wait()
		}
		if err = cmp.Or(err, sleep(ctx, look)); err != nil {
			return err
		}
	}
	s.Cursor = Cursor{}
	return nil
}

// look returns a page of the selected deliveries, which can be of several notifications, and where to go on. It ends
// after lookTime, so that a change of many notifications gets more than one at once, and no other one waits for long.
func (s *Selection) look(ctx context.Context, in db.Inspector, page db.Page, notifications []string) (found []db.Delivery, at Cursor, err error) {
	filter, most, began := s.Filter, page.Limit, time.Now()
	for at = s.Cursor; at.Part < len(notifications) && len(found) < most && time.Since(began) < lookTime; {
		filter.Notification, page.From, page.Limit = notifications[at.Part], at.From, most-len(found)
		some, next, err := list(ctx, in, filter, page)
		if err != nil {
			return nil, s.Cursor, err
		}
		found = append(found, some...)
		if at.From = next; next != 0 {
			break
		}
		at.Part++
	}
	return found, at, nil
}

// list is List of the database, with a time limit.
func list(ctx context.Context, in db.Inspector, filter db.Filter, page db.Page) ([]db.Delivery, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return in.List(ctx, filter, page)
}

// sleep pauses, or returns the cause of the context's end.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Cursor is where to go on. A list goes on with what is older, a change with what is newer, among what was selected
// when it began. Its text is opaque for clients.
type Cursor struct {
	Part int       // the place in Selection.Notifications
	From int64     // the id to begin with; 0: the first one
	AsOf time.Time // when a change began, by the database's clock; zero for a list
}

// String returns 0-4711 for a list, and 0-4711-1764500000000000 for a change. So neither can be used for the other:
// they go in opposite directions. From the start, there is none.
func (c Cursor) String() string {
	switch {
	case c == Cursor{}:
		return ""
	case c.AsOf.IsZero():
		return fmt.Sprintf("%d-%d", c.Part, c.From)
	default:
		return fmt.Sprintf("%d-%d-%d", c.Part, c.From, c.AsOf.UnixMicro())
	}
}

// parseCursor is the reverse of String.
func parseCursor(text string, ofChange bool) (c Cursor, err error) {
	var asOf int64
	_, _ = fmt.Sscanf(text, "%d-%d-%d", &c.Part, &c.From, &asOf) // a list has two numbers
	if asOf > 0 {
		c.AsOf = time.UnixMicro(asOf)
	}
	if c.Part < 0 || c.From < 0 || c.String() != text || text != "" && ofChange == c.AsOf.IsZero() {
		return Cursor{}, errors.New("cursor: give one that an earlier answer to the same request had in its last line")
	}
	return c, nil
}
