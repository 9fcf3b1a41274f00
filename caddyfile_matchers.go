package intercomwebhook

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_topic <patterns...>
func (m *MatchTopic) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	*m, err = parseList(d, *m, "topic pattern", topicpattern.Check)
	return err
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
func parseList(d *caddyfile.Dispenser, list []string, element string, check func(string) error) ([]string, error) {
	for d.Next() {
		name := d.Val()
		if d.CountRemainingArgs() == 0 {
			return nil, d.ArgErr()
		}
		for d.NextArg() {
			if err := check(d.Val()); err != nil {
				return nil, d.WrapErr(err)
			}
			if slices.Contains(list, d.Val()) {
				return nil, d.Errf("%s %q is given twice", element, d.Val())
			}
			list = append(list, d.Val())
		}
		if d.NextBlock(0) {
			return nil, d.Errf("%s takes no block", name)
		}
	}
	return list, nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*MatchTopic)(nil)
	_ caddyfile.Unmarshaler = (*MatchWorkspace)(nil)
)
