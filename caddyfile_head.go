package intercomwebhook

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// head is the first line of a route:
//
//	route <topics...> [for <workspaces...>] [as <lane>] [to ...]
type head struct {
	name       string // of the subdirective
	topics     MatchTopic
	workspaces MatchWorkspace
	lane       string
	proxied    bool // it has `to`

	selection string            // the tokens before `as` and `to`
	rest      caddyfile.Segment // `to`, or else the last token of the line, and all that follows
}

// headParser reads the first line of a route, token by token.
type headParser struct {
	*caddyfile.Dispenser
	segment caddyfile.Segment
	last    int  // the index of the current token
	more    bool // whether there is a current token
}

// parseHead parses the first line of a route up to `to`.
func parseHead(segment caddyfile.Segment) (h head, err error) {
	p := headParser{Dispenser: caddyfile.NewDispenser(segment), segment: segment}
	p.Next()
	h.name = p.Val()
	p.next()
	if h.topics, err = p.list("topic pattern", topicpattern.Check); err != nil {
		return head{}, err
	}
	if len(h.topics) == 0 {
		return head{}, p.Errf("%s: the topic pattern is missing; * fits every topic", h.name)
	}
	if p.at("for") {
		p.next()
		if h.workspaces, err = p.list("workspace", checkWorkspace); err != nil {
			return head{}, err
		}
		if len(h.workspaces) == 0 {
			return head{}, p.Err("for: the workspace is missing; give the app ids of workspaces, as in `for tulip4`, or leave out `for` to take all of them")
		}
	}
	h.selection = join(segment[:p.last])
	if p.at("as") {
		if p.next(); !p.more {
			return head{}, p.Err("as: the name of the lane is missing")
		}
		h.lane = p.Val()
		if err := lanename.Check(h.lane); err != nil {
			return head{}, p.WrapErr(err)
		}
		p.next()
	}
	h.proxied = p.at("to")
	if p.more && !h.proxied {
		return head{}, p.unexpected(h.lane != "")
	}
	if !p.more {
		p.last--
	}
	h.rest = segment[p.last:]
	return h, nil
}

func (p *headParser) next() {
	p.more = p.NextArg()
	p.last++
}

func (p *headParser) at(keyword string) bool { return p.more && p.Val() == keyword }

// list reads tokens up to the next keyword.
func (p *headParser) list(element string, check func(string) error) ([]string, error) {
	var list []string
	for ; p.more && !slices.Contains([]string{"for", "as", "to"}, p.Val()); p.next() {
		if isUpstream(p.Val()) && !slices.Contains(words(p.segment[p.last:]), "to") {
			return nil, p.missingTo()
		}
		if err := check(p.Val()); err != nil {
			return nil, p.WrapErr(err)
		}
		if slices.Contains(list, p.Val()) {
			return nil, p.Errf("%s %q is given twice", element, p.Val())
		}
		list = append(list, p.Val())
	}
	return list, nil
}

// unexpected returns the error for a token that cannot be where it is.
func (p *headParser) unexpected(behindLane bool) error {
	switch token := p.Val(); {
	case isUpstream(token):
		return p.missingTo()
	case !behindLane: // `for` behind the workspaces
		return p.Errf("%s is given twice", token)
	case token == "for":
		return p.Err("`for <workspaces...>` must come before `as <lane>`")
	default:
		return p.Errf("unexpected %q after the lane: topics must come before as", token)
	}
}

func (p *headParser) missingTo() error {
	given := p.segment[0].Text + " <topics...>"
	if p.last > 1 {
		given = join(p.segment[:p.last])
	}
	return p.Errf("%s: `to` is missing before the upstream, as in `%s to %s`", p.segment[0].Text, given, p.Val())
}

// isUpstream reports whether the token can be an upstream, but not a topic pattern.
func isUpstream(token string) bool {
	return strings.ContainsAny(token, ":{") || strings.HasPrefix(token, "unix/")
}

// join returns the text of the tokens, with spaces between them.
func join(tokens []caddyfile.Token) string { return strings.Join(words(tokens), " ") }

func words(tokens []caddyfile.Token) []string {
	words := make([]string, len(tokens))
	for i, token := range tokens {
		words[i] = token.Text
	}
	return words
}
