package queue

import (
	"encoding/json"
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
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// selection says which jobs to list or to change.
type selection struct {
	filter jobdb.Filter // without Kinds
	topic  string       // a valid pattern; empty for all
	group  *deadGroup   // in place of a topic and queues; nil for all
	cursor cursor
	limit  int // how many jobs at most; 0: all
}

const (
	defaultLimit = 100
	maxLimit     = 1000 // of a list

	maxRate           = 1_000_000
	maxParametersSize = 1 << 20
)

// The names of the parameters of a request: of all, of those that select jobs, and of those
// that change jobs.
var (
	laneParameters   = []string{"queue"}
	listParameters   = []string{"queue", "lane", "state", "topic", "workspace", "notification", "id", "since", "until", "error", "cursor", "limit"}
	changeParameters = append(slices.Clone(listParameters), "dry_run", "to", "rate")

	// Without one of these, a change would be one of everything.
	filterParameters = []string{"lane", "state", "topic", "workspace", "notification", "id", "since", "until", "error"}
)

// parameters are those of a request, by name, as they are written.
type parameters map[string][]string

// readParameters reads the query of a request, and the JSON object in its body. It refuses
// all but the known ones.
func readParameters(r *http.Request, known []string) (parameters, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errors.New("the query is malformed: separate parameters by &, and escape other characters than letters and digits with %")
	}
	p := parameters(query)
	body, err := io.ReadAll(io.LimitReader(r.Body, maxParametersSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if err := p.addJSON(body); err != nil {
		return nil, err
	}
	return p, p.check(known)
}

var errParametersJSON = errors.New(`the body is not a JSON object with parameters, as in {"topic":"conversation.*","since":"2h"}`)

// addJSON adds the members of a JSON object. Its values may be strings, numbers, booleans,
// and lists of these. An empty text has no parameters.
func (p parameters) addJSON(text []byte) error {
	if len(text) > maxParametersSize {
		return fmt.Errorf("the body is longer than %d bytes", maxParametersSize)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil
	}
	in := json.NewDecoder(strings.NewReader(string(text)))
	in.UseNumber()
	if token, err := in.Token(); err != nil || token != json.Delim('{') {
		return errParametersJSON
	}
	for in.More() {
		token, err := in.Token()
		if err != nil {
			return errParametersJSON
		}
		name := token.(string)
		var value any
		if err := in.Decode(&value); err != nil {
			return errParametersJSON
		}
		if p[name] != nil {
			return fmt.Errorf("%q is given twice", name)
		}
		if p[name], err = texts(name, value); err != nil {
			return err
		}
	}
	if _, err := in.Token(); err != nil { // the closing brace
		return errParametersJSON
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errParametersJSON
	}
	return nil
}

// texts returns a JSON value as it would be written in a query.
func texts(name string, value any) ([]string, error) {
	switch value := value.(type) {
	case string:
		return []string{value}, nil
	case json.Number:
		return []string{value.String()}, nil
	case bool:
		return []string{strconv.FormatBool(value)}, nil
	case []any:
		all := []string{}
		for _, element := range value {
			if _, nested := element.([]any); nested {
				return nil, fmt.Errorf("%q has a list in a list: give one list of strings", name)
			}
			one, err := texts(name, element)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	default: // null and objects
		return nil, fmt.Errorf("%q must be a string, a number, true, false, or a list of strings", name)
	}
}

func (p parameters) check(known []string) error {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%q: there is no such parameter; the parameters are %s", name, option.Choices(name, known))
		}
		if len(p[name]) == 0 || slices.Contains(p[name], "") {
			return fmt.Errorf("%q has no value: leave it out, or give it one", name)
		}
		if slices.ContainsFunc(p[name], notText) {
			return fmt.Errorf("%q is not text: escape UTF-8 with %%, and leave out zero bytes", name)
		}
		if len(p[name]) > 1 && name != "state" && name != "id" {
			return fmt.Errorf("%q is given more than once", name)
		}
	}
	return nil
}

// notText reports whether a value is not UTF-8, or has a zero byte. PostgreSQL knows neither.
func notText(value string) bool {
	return !utf8.ValidString(value) || strings.ContainsRune(value, 0)
}

// one returns the value of a parameter that may be given once; empty if it is not given.
func (p parameters) one(name string) string {
	if len(p[name]) == 0 {
		return ""
	}
	return p[name][0]
}

// list returns the values of a parameter that may be given several times, or with commas.
func (p parameters) list(name string) []string {
	var all []string
	for _, value := range p[name] {
		for one := range strings.SplitSeq(value, ",") {
			all = append(all, strings.TrimSpace(one))
		}
	}
	return all
}

// hasFilter reports whether a parameter selects jobs.
func (p parameters) hasFilter() bool {
	return slices.ContainsFunc(filterParameters, func(name string) bool { return p[name] != nil })
}

// selection returns what the parameters select, except for the lane. The time is the
// database's.
func (p parameters) selection(now time.Time) (s selection, err error) {
	s.filter.Workspace, s.filter.Notification, s.filter.Error = p.one("workspace"), p.one("notification"), p.one("error")
	for _, name := range p.list("state") {
		state := jobdb.State(name)
		if !slices.Contains(countedStates, state) {
			return s, fmt.Errorf("state %q: there is no such state; the states are %s", name, option.Choices(name, stateNames()))
		}
		s.filter.States = append(s.filter.States, state)
	}
	for _, text := range p.list("id") {
		id, err := strconv.ParseInt(text, 10, 64)
		if err != nil || id < 1 {
			return s, fmt.Errorf("id %q: give the number of a job, as in 4711; for the id that Intercom gave, use notification", text)
		}
		s.filter.IDs = append(s.filter.IDs, id)
	}
	if s.topic = p.one("topic"); s.topic != "" {
		if err := topicpattern.Check(s.topic); err != nil {
			return s, err
		}
	}
	if s.filter.Since, err = p.time("since", now); err != nil {
		return s, err
	}
	if s.filter.Until, err = p.time("until", now); err != nil {
		return s, err
	}
	if s.cursor, err = parseCursor(p.one("cursor")); err != nil {
		return s, err
	}
	if text := p.one("limit"); text != "" {
		if s.limit, err = strconv.Atoi(text); err != nil || s.limit < 1 {
			return s, fmt.Errorf("limit %q: give a number from 1", text)
		}
	}
	return s, nil
}

func stateNames() []string {
	var names []string
	for _, state := range countedStates {
		names = append(names, string(state))
	}
	return names
}

// time returns the time of a parameter: RFC 3339, or how long it is ago.
func (p parameters) time(name string, now time.Time) (time.Time, error) {
	text := p.one(name)
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
func (p parameters) bool(name string) (bool, error) {
	switch text := p.one(name); text {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fmt.Errorf("%s %q: give true or false", name, text)
	}
}

// rate returns how many jobs to change a second at most; 0 if it is not given.
func (p parameters) rate() (float64, error) {
	text := p.one("rate")
	if text == "" {
		return 0, nil
	}
	rate, err := strconv.ParseFloat(text, 64)
	if err != nil || !(rate > 0 && rate <= maxRate) { // this refuses NaN, too
		return 0, fmt.Errorf("rate %q: give how many notifications a second, as in 50 or 0.5, %d at most", text, maxRate)
	}
	return rate, nil
}

// change returns what the parameters say about a change of a selection.
func (p parameters) change(v verb, s selection) (change, error) {
	c := change{verb: v, selection: s, to: p.one("to")}
	if c.to != "" && v != verbRetry && v != verbResend {
		return c, fmt.Errorf("%s has no parameter to: only retry and resend deliver", v)
	}
	var err error
	if c.dryRun, err = p.bool("dry_run"); err != nil {
		return c, err
	}
	c.rate, err = p.rate()
	return c, err
}

// cursor is where to go on. Its text is opaque for clients.
type cursor struct {
	from int64 // the id to begin with; 0: the first one
	last int64 // the highest id of a change; 0 for a list
}

// String returns the cursor of a list as "l4711", and that of a change as "c4711-9999". So
// neither can be used for the other: they go in opposite directions. From the start, there
// is none.
func (c cursor) String() string {
	if c.from == 0 {
		return ""
	}
	if c.last == 0 {
		return fmt.Sprintf("l%d", c.from)
	}
	return fmt.Sprintf("c%d-%d", c.from, c.last)
}

var errCursor = errors.New("cursor: give one that an earlier answer to the same request had in its last line")

func parseCursor(text string) (cursor, error) {
	if text == "" {
		return cursor{}, nil
	}
	from, last, ofChange := strings.Cut(text[1:], "-")
	var c cursor
	var err error
	if c.from, err = strconv.ParseInt(from, 10, 64); err != nil {
		return cursor{}, errCursor
	}
	if ofChange {
		if c.last, err = strconv.ParseInt(last, 10, 64); err != nil {
			return cursor{}, errCursor
		}
	}
	if c.from < 0 || c.String() != text {
		return cursor{}, errCursor
	}
	return c, nil
}
