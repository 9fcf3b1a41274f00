package intercomwebhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// head is the first line of a route, copy or ignore:
//
//	route <topics...> [for <workspaces...>] [where <conditions...>] [once <field> within <duration>] [as <lane>] [to ...]
type head struct {
	name       string // of the subdirective
	topics     MatchTopic
	workspaces MatchWorkspace
	conditions MatchField
	once       *Once
	lane       string
	proxied    bool // it has `to`

	selection string            // the tokens before `once`, `as` and `to`
	rest      caddyfile.Segment // `to`, or else the last token of the line, and all that follows
}

// firstLine returns a dispenser whose errors name the first line of the segment.
func firstLine(segment caddyfile.Segment) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	return d
}

// parseHead parses the first line of a route up to `to`.
func parseHead(segment caddyfile.Segment) (h head, err error) {
	d := firstLine(segment)
	h.name = d.Val()
	args := headArgs{h.name, d.RemainingArgs(), 0}
	if h.topics, err = args.list("topic pattern", topicpattern.Check); err != nil {
		return head{}, d.WrapErr(err)
	}
	if len(h.topics) == 0 {
		return head{}, d.Errf("%s: the topic pattern is missing; * fits every topic", h.name)
	}
	if args.take("for") {
		if h.workspaces, err = args.list("workspace", checkWorkspace); err != nil {
			return head{}, d.WrapErr(err)
		}
		if len(h.workspaces) == 0 {
			return head{}, d.Err("for: the workspace is missing; give the app ids of workspaces, as in `for tulip4`, or leave out `for` to take all of them")
		}
	}
	if args.take("where") {
		if h.conditions, err = args.list("condition", fields.CheckCondition); err == nil {
			err = h.conditions.Validate()
		}
		if err != nil {
			return head{}, d.Errf("where: %w", err)
		}
	}
	h.selection = args.parsed()
	if args.take("once") {
		if h.once, err = args.once(); err != nil {
			return head{}, d.WrapErr(err)
		}
	}
	if args.take("as") {
		if args.at == len(args.all) {
			return head{}, d.Err("as: the name of the lane is missing")
		}
		h.lane = args.next()
		if err := lanename.Check(h.lane); err != nil {
			return head{}, d.WrapErr(err)
		}
		args.at++
	}
	h.proxied = args.next() == "to"
	h.rest = segment[min(args.at+1, len(args.all)):]
	if args.at < len(args.all) && !h.proxied {
		return head{}, d.WrapErr(args.unexpected())
	}
	return h, nil
}

// headArgs are the arguments on the first line of a route.
type headArgs struct {
	name string // of the subdirective
	all  []string
	at   int // the next one to parse
}

// next returns the next argument; empty if there is none.
func (a *headArgs) next() string {
	if a.at == len(a.all) {
		return ""
	}
	return a.all[a.at]
}

func (a *headArgs) take(keyword string) bool {
	found := a.next() == keyword
	if found {
		a.at++
	}
	return found
}

// list parses arguments up to the next keyword.
func (a *headArgs) list(element string, check func(string) error) (list []string, err error) {
	for ; a.at < len(a.all) && keywords[a.next()] == "" && a.next() != "to"; a.at++ {
		if isUpstream(a.next()) && !strings.Contains(a.next(), "=") && !slices.Contains(a.all, "to") {
			return nil, a.missingTo()
		}
		if list, err = appendNew(list, element, a.next(), check); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// once parses `<field> within <duration>`.
func (a *headArgs) once() (*Once, error) {
	given := a.all[a.at:min(a.at+3, len(a.all))]
	if len(given) < 3 || given[1] != "within" {
		return nil, errors.New("once: give a field and a duration, as in `once data.item.id within 1h`")
	}
	a.at += len(given)
	within, err := caddy.ParseDuration(given[2])
	if err != nil {
		return nil, fmt.Errorf("once: %q is not a duration such as 10m", given[2])
	}
	once := &Once{Field: given[0], Within: caddy.Duration(within)}
	return once, once.check()
}

// keywords are those of the line but `to`, as the grammar has them.
var keywords = map[string]string{
	"for": "for <workspaces...>", "where": "where <conditions...>", "once": "once <field> within <duration>", "as": "as <lane>",
}

// parsed returns the line so far.
func (a *headArgs) parsed() string {
	return strings.Join(append([]string{a.name}, a.all[:a.at]...), " ")
}

// unexpected returns the error for an argument that cannot be where it is.
func (a *headArgs) unexpected() error {
	token, before := a.next(), "" // the last keyword before it
	for _, arg := range a.all[:a.at] {
		if keywords[arg] != "" {
			before = arg
		}
	}
	switch {
	case isUpstream(token):
		return a.missingTo()
	case keywords[token] == "":
		return fmt.Errorf("unexpected %q behind `%s`: topics must come before it", token, keywords[before])
	case slices.Contains(a.all[:a.at], token):
		return fmt.Errorf("%s is given twice", token)
	default:
		return fmt.Errorf("`%s` must come before `%s`", keywords[token], keywords[before])
	}
}

func (a *headArgs) missingTo() error {
	given := a.parsed()
	if a.at == 0 {
		given += " <topics...>"
	}
	return fmt.Errorf("%s: `to` is missing before the upstream, as in `%s to %s`", a.name, given, a.next())
}

// isUpstream reports whether the token can be an upstream, but not a topic pattern.
func isUpstream(token string) bool {
	return strings.ContainsAny(token, ":{") || strings.HasPrefix(token, "unix/")
}
