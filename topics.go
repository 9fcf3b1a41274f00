package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// MatchTopic matches verified notifications by their topic. It takes one or more
// patterns, and the topic must fit one of them. A pattern is a topic such as
// `conversation.user.replied`, in which segments may be `*`. A `*` stands for exactly one
// segment or, at the end, for one or more. `*` alone fits every topic. So
// `conversation.*` fits `conversation.user.replied`, but not `conversation_part.redacted`.
//
// It does not match requests that have not passed an `intercom_webhook` handler, and
// requests that are not notifications.
type MatchTopic []string

// CaddyModule returns the Caddy module information.
func (*MatchTopic) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_topic",
		New: func() caddy.Module { return new(MatchTopic) },
	}
}

// Provision warns of patterns that fit no known topic. They are not an error, because
// Intercom adds topics.
func (m *MatchTopic) Provision(ctx caddy.Context) error {
	for _, pattern := range *m {
		if why := topicpattern.Unknown(pattern); why != "" {
			withPlace(ctx.Logger(), hashOf(m)).Warn(why, zap.String("pattern", pattern))
		}
	}
	return nil
}

// Validate refuses malformed patterns.
func (m *MatchTopic) Validate() error {
	if len(*m) == 0 {
		return errors.New("no topic pattern given")
	}
	for _, pattern := range *m {
		if err := topicpattern.Check(pattern); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification whose topic fits.
func (m *MatchTopic) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.isNotification() && slices.ContainsFunc(*m, func(pattern string) bool {
		return topicpattern.Matches(pattern, t.Topic)
	}), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_topic <patterns...>
func (m *MatchTopic) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	*m, err = parseList(d, *m, "topic pattern", topicpattern.Check)
	return err
}

// MatchWorkspace matches verified notifications by the workspace that they come from. It
// takes one or more app ids of workspaces, such as `tulip4`, and the `app_id` of the
// notification must be one of them. Capitals count. A notification without an app id comes
// from no workspace.
//
// It does not match requests that have not passed an `intercom_webhook` handler, and
// requests that are not notifications.
type MatchWorkspace []string

// CaddyModule returns the Caddy module information.
func (*MatchWorkspace) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_workspace",
		New: func() caddy.Module { return new(MatchWorkspace) },
	}
}

// Validate refuses malformed app ids.
func (m *MatchWorkspace) Validate() error {
	if len(*m) == 0 {
		return errors.New("no workspace given")
	}
	for _, id := range *m {
		if err := checkWorkspace(id); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification from one of the workspaces.
func (m *MatchWorkspace) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.isNotification() && slices.Contains(*m, t.AppID), nil
}

// checkWorkspace returns an error if the app id of a workspace is malformed.
func checkWorkspace(id string) error {
	switch {
	case id == "":
		return errors.New("workspace: the app id is empty")
	case strings.Contains(id, "*"):
		return fmt.Errorf("workspace %q: an app id cannot have a *; to take all workspaces, name none", id)
	case len(id) > envelope.MaxHeaderValue:
		return fmt.Errorf("workspace: an app id has at most %d characters", envelope.MaxHeaderValue)
	}
	for _, c := range []byte(id) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return fmt.Errorf("workspace %q: an app id has only the characters [A-Za-z0-9_-]", id)
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_workspace <app ids...>
func (m *MatchWorkspace) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	*m, err = parseList(d, *m, "workspace", checkWorkspace)
	return err
}

// parseList parses a matcher that is a list, each time that it is given, and returns the
// list with the new elements at its end.
func parseList(d *caddyfile.Dispenser, list []string, element string, check func(string) error) (_ []string, err error) {
	for d.Next() {
		name := d.Val()
		if d.CountRemainingArgs() == 0 {
			return nil, d.ArgErr()
		}
		for d.NextArg() {
			if list, err = appendNew(list, element, d.Val(), check); err != nil {
				return nil, d.WrapErr(err)
			}
		}
		if d.NextBlock(0) {
			return nil, d.Errf("%s takes no block", name)
		}
	}
	return list, nil
}

// appendNew appends a value to a list, unless it is malformed or there already.
func appendNew(list []string, element, value string, check func(string) error) ([]string, error) {
	if err := check(value); err != nil {
		return nil, err
	}
	if slices.Contains(list, value) {
		return nil, fmt.Errorf("%s %q is given twice", element, value)
	}
	return append(list, value), nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchTopic)(nil)
	_ caddy.Validator                   = (*MatchTopic)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchTopic)(nil)
	_ caddyfile.Unmarshaler             = (*MatchTopic)(nil)

	_ caddy.Validator                   = (*MatchWorkspace)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchWorkspace)(nil)
	_ caddyfile.Unmarshaler             = (*MatchWorkspace)(nil)
)
