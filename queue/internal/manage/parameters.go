package manage

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
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
	ListParameters     = append(append(slices.Clone(EndpointParameters), filterParameters...), "cursor", "limit")
	ChangeParameters   = append(slices.Clone(ListParameters), "dry_run", "to", "rate", "whole")

	// Without one of these, a change would be one of everything.
	filterParameters = []string{"state", "reason", "topic", "lane", "workspace", "notification", "since", "until", "error"}
)

// Parameters are those of a request, by name, as they are written.
type Parameters map[string][]string

// ReadParameters reads the query of a request. It refuses all but the known ones, and a body.
func ReadParameters(r *http.Request, known []string) (Parameters, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, BadRequest(errors.New("the query is malformed: separate parameters by &, and escape other characters than letters and digits with %"))
	}
	if n, _ := io.ReadFull(r.Body, make([]byte, 1)); n > 0 {
		return nil, BadRequest(errors.New("the request has a body: give parameters in the query, as in ?topic=conversation.*&since=2h"))
	}
	p := Parameters(query)
	if err := p.check(known); err != nil {
		return nil, BadRequest(err)
	}
	return p, nil
}

func (p Parameters) check(known []string) error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%q: there is no such parameter; the parameters are %s", name, option.Choices(name, known))
		}
		if slices.Contains(p[name], "") {
			return fmt.Errorf("%q has no value: leave it out, or give it one", name)
		}
		if slices.ContainsFunc(p[name], notText) {
			return fmt.Errorf("%q is not text: escape UTF-8 with %%, and leave out zero bytes", name)
		}
		if len(p[name]) > 1 && name != "state" && name != "reason" {
			return fmt.Errorf("%q is given more than once", name)
		}
	}
	return nil
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

// Selection says which deliveries to list or to change.
type Selection struct {
	Filter db.Filter
	Cursor Cursor
	Limit  int // how many at most; 0: all
}

// selection returns what the parameters select of an endpoint.
func (p Parameters) selection(e Endpoint) (s Selection, err error) {
	s.Filter = db.Filter{
		Endpoint: e.Name, Topic: p.One("topic"), Lane: p.One("lane"), Workspace: p.One("workspace"),
		Notification: p.One("notification"), Error: p.One("error"),
	}
	if s.Filter.States, err = choices(p, "state", db.States); err != nil {
		return s, err
	}
	if s.Filter.Reasons, err = choices(p, "reason", db.Reasons); err != nil {
		return s, err
	}
	if s.Filter.Topic != "" {
		if err := topicpattern.Check(s.Filter.Topic); err != nil {
			return s, err
		}
	}
	now := e.Worker.Now()
	if s.Filter.Since, err = p.time("since", now); err != nil {
		return s, err
	}
	if s.Filter.Until, err = p.time("until", now); err != nil {
		return s, err
	}
	if s.Cursor, err = parseCursor(p.One("cursor")); err != nil {
		return s, err
	}
	if text := p.One("limit"); text != "" {
		if s.Limit, err = strconv.Atoi(text); err != nil || s.Limit < 1 {
			return s, fmt.Errorf("limit %q: give a number from 1", text)
		}
	}
	return s, nil
}

// choices returns the values of a parameter that may be given several times, or with commas.
func choices[T ~string](p Parameters, name string, valid []T) (chosen []T, err error) {
	for _, text := range p[name] {
		for one := range strings.SplitSeq(text, ",") {
			value := T(strings.TrimSpace(one))
			if !slices.Contains(valid, value) {
				var names []string
				for _, v := range valid {
					names = append(names, string(v))
				}
				return nil, fmt.Errorf("%s %q: there is no such %[1]s; they are %s", name, string(value), option.Choices(string(value), names))
			}
			chosen = append(chosen, value)
		}
	}
	return chosen, nil
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
	switch text := p.One(name); text {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fmt.Errorf("%s %q: give true or false", name, text)
	}
}

// List returns what the parameters say about a list.
func (p Parameters) List(e Endpoint) (Selection, error) {
	s, err := p.selection(e)
	switch {
	case err != nil:
		return s, BadRequest(err)
	case !s.Cursor.AsOf.IsZero():
		return s, BadRequest(errCursor)
	case s.Limit > maxLimit:
		return s, BadRequest(fmt.Errorf("limit %d: a list has %d at most; its last line has the cursor to go on with", s.Limit, maxLimit))
	case s.Limit == 0:
		s.Limit = defaultLimit
	}
	return s, nil
}

// Change returns what the parameters say about a change of deliveries of an endpoint.
func (p Parameters) Change(e Endpoint, v Verb) (Change, error) {
	if !slices.ContainsFunc(filterParameters, func(name string) bool { return p[name] != nil }) {
		return Change{}, BadRequest(fmt.Errorf("%s needs a filter, such as state=dead, topic=conversation.* or since=2h", v))
	}
	c := Change{Verb: v, To: p.One("to"), What: url.Values(p).Encode()}
	err := c.parse(p, e)
	if err != nil {
		return c, BadRequest(err)
	}
	if c.To != "" {
		err = e.checkTo(c.To)
	}
	return c, err
}

func (c *Change) parse(p Parameters, e Endpoint) (err error) {
	if c.To != "" && c.Verb != Retry && c.Verb != Resend {
		return fmt.Errorf("%s has no parameter to: only retry and resend deliver", c.Verb)
	}
	if p["whole"] != nil && c.Verb != Erase {
		return fmt.Errorf("%s has no parameter whole: only erase rewrites the file", c.Verb)
	}
	if c.Selection, err = p.selection(e); err != nil {
		return err
	}
	if c.Cursor.AsOf.IsZero() && c.Cursor.From != 0 {
		return errCursor
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

// Cursor is where to go on. A list goes on with what is older, a change with what is newer,
// among what was selected when it began. Its text is opaque for clients.
type Cursor struct {
	From int64     // the id to begin with; 0: the first one
	AsOf time.Time // when a change began, by the database's clock; zero for a list
}

// String returns 4711 for a list, and 4711-1764500000000000 for a change. So neither can be
// used for the other: they go in opposite directions. From the start, there is none.
func (c Cursor) String() string {
	switch {
	case c.From == 0:
		return ""
	case c.AsOf.IsZero():
		return strconv.FormatInt(c.From, 10)
	default:
		return fmt.Sprintf("%d-%d", c.From, c.AsOf.UnixMicro())
	}
}

var errCursor = errors.New("cursor: give one that an earlier answer to the same request had in its last line")

func parseCursor(text string) (c Cursor, err error) {
	if text == "" {
		return c, nil
	}
	from, asOf, ofChange := strings.Cut(text, "-")
	if c.From, err = strconv.ParseInt(from, 10, 64); err != nil || c.From < 1 {
		return Cursor{}, errCursor
	}
	if ofChange {
		micros, err := strconv.ParseInt(asOf, 10, 64)
		if err != nil || micros < 1 {
			return Cursor{}, errCursor
		}
		c.AsOf = time.UnixMicro(micros)
	}
	if c.String() != text {
		return Cursor{}, errCursor
	}
	return c, nil
}
