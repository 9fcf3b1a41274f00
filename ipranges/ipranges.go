// Package ipranges provides the addresses that Intercom sends from, as the IP source
// `intercom`, and keeps them fresh.
package ipranges

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func init() {
	caddy.RegisterModule(new(Source))
}

// Source provides the addresses that Intercom sends from, as Intercom publishes
// them, and keeps them fresh.
//
// It starts with the newest list that it has: the one in Caddy's storage, or the one
// compiled in. When the config is started, it asks Intercom for changes, and then again
// and again, in the background. Requests never wait for that. An answer that is not a
// plausible list is refused with a warning, and the last good list stays in use. Each
// good list is stored, so that it survives a restart, and so that instances with the
// same storage share it.
//
// All IP sources with the same options share one list, and keep it when the config is
// reloaded.
type Source struct {
	// The regions whose addresses are used: any of `us`, `eu` and `au`.
	// Default: all of them.
	Regions []string `json:"regions,omitempty"`

	// How often to ask for changes, plus or minus a tenth. After a failure, the
	// next attempt comes after 10s, and then after twice as long each time, up to
	// this interval. 0 is never: the list that is stored or compiled in stays in use.
	// Default: 1h.
	Refresh *caddy.Duration `json:"refresh,omitempty"`

	// The https or http URL of the lists, with `{region}` in the place of the
	// region's name. With a single region, `{region}` is optional. Default:
	// `https://static.intercomcdn.com/intercom-ips/{region}/intercom-ip-ranges.json`.
	URL string `json:"url,omitempty"`

	// How long to wait for a list. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	refresher  *refresher // nil until it is acquired
	subscriber *subscriber
}

var regions = intercom.Regions

const (
	defaultURL     = intercom.IPRangesURL
	defaultTimeout = 10 * time.Second
	defaultRefresh = time.Hour
)

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.ip_sources.intercom",
		New: func() caddy.Module { return new(Source) },
	}
}

// Provision acquires the lists. It reads storage, but does not use the network: that
// waits until the config is started. A config that is only validated is never started.
func (s *Source) Provision(ctx caddy.Context) error {
	setting, err := s.setting()
	if err != nil {
		return err
	}
	if strings.HasPrefix(strings.ToLower(s.URL), "http:") {
		ctx.Logger().Warn("url is http, not https: anybody on the network path can decide which addresses are allowed; use https")
	}
	emitter, err := events.New(ctx)
	if err != nil {
		return err
	}
	s.subscriber = &subscriber{ctx.Storage(), ctx.Logger(), emitter}
	if s.refresher, err = acquireRefresher(setting, s.subscriber); err != nil {
		return err
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return events.OnceStarted(ctx, func() { s.refresher.start(s.subscriber) })
}

// setting checks the fields, and returns them with the defaults for those not set.
func (s *Source) setting() (setting, error) {
	if err := checkRegions(s.Regions); err != nil {
		return setting{}, err
	}
	set := setting{refresh: defaultRefresh, timeout: time.Duration(cmp.Or(s.Timeout, caddy.Duration(defaultTimeout)))}
	if s.Refresh != nil {
		set.refresh = time.Duration(*s.Refresh)
	}
	if err := option.CheckDuration("timeout", set.timeout, option.Year); err != nil {
		return setting{}, err
	}
	if err := checkRefresh("refresh", set.refresh); err != nil {
		return setting{}, err
	}
	template := cmp.Or(s.URL, defaultURL)
	if err := checkListURL(template, s.Regions); err != nil {
		return setting{}, err
	}
	for i, region := range regions {
		if len(s.Regions) == 0 || slices.Contains(s.Regions, region) {
			set.urls[i] = listURL(template, region)
		}
	}
	return set, nil
}

// Check returns an error if a field is wrong.
func (s *Source) Check() error {
	_, err := s.setting()
	return err
}

// EachList calls show with the list of each region that is stored or compiled in or, with fetch,
// that is published now and then stored. After an error it goes on with the other lists. The
// command line calls it, which finds it by the id of the module.
func (s *Source) EachList(ctx context.Context, storage certmagic.Storage, fetch bool,
	show func(region, source string, asOf time.Time, ranges []netip.Prefix) error,
) (failed error) {
	setting, err := s.setting()
	if err != nil {
		return err
	}
	for _, feed := range setting.feeds() {
		list, err := feed.Newest(ctx, storage)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: reading the stored list: %w", feed.Region, err))
		}
		if fetch {
			fetched, err := feed.Fetch(ctx, storage, list)
			list = cmp.Or(fetched, list)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", feed.Region, err))
			}
		}
		if err := show(feed.Region, list.Source, list.Checked, list.Ranges); err != nil {
			return err
		}
	}
	return failed
}

func checkRefresh(name string, d time.Duration) error {
	if err := option.CheckDuration(name, d, option.Year); err != nil && d != 0 {
		return fmt.Errorf("%w; 0 is never", err)
	}
	return nil
}

func checkRegions(names []string) error {
	for i, name := range names {
		if !slices.Contains(regions[:], name) {
			return fmt.Errorf("region %q is not a region of Intercom: the regions are %s", name, strings.Join(regions[:], ", "))
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("region %s is given twice", name)
		}
	}
	return nil
}

var errListURL = errors.New("url is not an http or https URL such as " + defaultURL)

func checkListURL(template string, names []string) error {
	parsed, err := url.Parse(listURL(template, regions[0]))
	if err != nil || parsed.Hostname() == "" || parsed.Fragment != "" || parsed.Scheme != "https" && parsed.Scheme != "http" {
		return errListURL // without err: it quotes the URL, which may have a password
	}
	if strings.ContainsAny(listURL(template, ""), "{}") {
		return errors.New("url has a placeholder other than {region}")
	}
	if len(names) != 1 && !strings.Contains(template, "{region}") {
		return errors.New("url is the same for all regions: put {region} where it differs, or name a single region")
	}
	return nil
}

func listURL(template, region string) string {
	return strings.ReplaceAll(template, "{region}", region)
}

// GetIPRanges returns the addresses of all regions. It does not lock or wait.
func (s *Source) GetIPRanges(*http.Request) []netip.Prefix {
	return s.refresher.ranges()
}

// Cleanup releases the lists, if Provision has acquired them.
func (s *Source) Cleanup() error {
	if s.refresher == nil {
		return nil
	}
	return s.refresher.release(s.subscriber)
}

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

// Interface guards
var (
	_ caddy.Provisioner       = (*Source)(nil)
	_ caddy.CleanerUpper      = (*Source)(nil)
	_ caddyhttp.IPRangeSource = (*Source)(nil)
	_ caddyfile.Unmarshaler   = (*Source)(nil)
)
