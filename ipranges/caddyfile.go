package ipranges

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

// UnmarshalCaddyfile sets up the IP source from Caddyfile tokens. Syntax:
//
//	intercom [<regions...>] {
//		refresh <duration>
//		url     <template with {region}>
//		timeout <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the name of the source
	s.Regions = d.RemainingArgs()
	if err := checkRegions(s.Regions); err != nil {
		return d.WrapErr(err)
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch name {
		case "refresh":
			s.Refresh = new(caddy.Duration)
			*s.Refresh, err = option.ParseDuration(d, checkRefresh)
		case "url":
			if !d.AllArgs(&s.URL) {
				return d.ArgErr()
			}
			if err := checkListURL(s.URL, s.Regions); err != nil {
				return d.WrapErr(err)
			}
		case "timeout":
			s.Timeout, err = option.ParseDuration(d, option.UpTo(option.Year))
		default:
			err = d.Errf("unknown option %s of the IP source intercom: it has %s", name, option.Choices(name, []string{"refresh", "url", "timeout"}))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Source)(nil)
