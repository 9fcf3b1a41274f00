package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(MatchWorkspace))
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
	return ok && t.kind == kindNotification && slices.Contains(*m, t.appID), nil
}

// checkWorkspace returns an error if the app id of a workspace is malformed.
func checkWorkspace(id string) error {
	switch {
	case id == "":
		return errors.New("workspace: the app id is empty")
	case strings.Contains(id, "*"):
		return fmt.Errorf("workspace %q: an app id cannot have a *; to take all workspaces, name none", id)
	case len(id) > maxHeaderValue:
		return fmt.Errorf("workspace: an app id has at most %d characters", maxHeaderValue)
	}
	for _, c := range []byte(id) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return fmt.Errorf("workspace %q: an app id has only the characters [A-Za-z0-9_-]", id)
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Validator                   = (*MatchWorkspace)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchWorkspace)(nil)
)
