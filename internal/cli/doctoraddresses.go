package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

// staleAfter is how old a list of addresses is when something is wrong: Intercom renews it
// daily, and the IP source asks for it every hour.
const staleAfter = 48 * time.Hour

// checkSources looks at the addresses that requests may come from.
func (c *config) checkSources(ctx context.Context, f *findings, e endpointConfig) {
	check := "addresses of " + e.place
	if s := e.server; s.TrustedProxiesStrict == 0 && (len(s.TrustedProxies) > 0 || s.TrustedProxiesUnix) {
		f.warn(check, "trusted_proxies is set without trusted_proxies_strict", "the sender can write its own address into X-Forwarded-For", "add trusted_proxies_strict to the server's options")
	}
	sources := []*ipranges.Source{new(ipranges.Source)}
	if len(e.Allow) > 0 {
		sources = nil
		for _, allowed := range e.Allow {
			if allowed.Source == "intercom" {
				sources = append(sources, &ipranges.Source{Regions: allowed.Regions, URL: allowed.URL})
			}
		}
		if len(sources) == 0 {
			f.warn(check, "allow does not have intercom", "Intercom's addresses change, and only the IP source intercom follows them", "add `allow intercom`")
		}
	}
	c.checkLists(ctx, f, check, sources)
}

// checkLists looks how old the lists of Intercom's addresses are.
func (c *config) checkLists(ctx context.Context, f *findings, check string, sources []*ipranges.Source) {
	storage, release, err := storageOf(c.raw)
	if err != nil {
		f.broken(check, "the storage cannot be used: "+err.Error(), "the config does not load", "correct the global option storage")
		return
	}
	defer release()
	byAge := make(map[string][]string) // regions with a list of the same day and source
	var oldest time.Time
	for _, source := range sources {
		feeds, err := source.Feeds()
		if err != nil {
			f.broken(check, err.Error(), "the config does not load", "correct `allow intercom`")
			return
		}
		for _, feed := range feeds {
			list, err := feed.Newest(ctx, storage)
			if err != nil {
				f.warn(check, "the stored list of "+feed.Region+" cannot be read: "+err.Error(), "the one compiled in is used, which may be old", "run doctor as the user of Caddy, or `ip-ranges --fetch`")
			}
			age := fmt.Sprintf("%s (%s)", list.Checked.Format(time.DateOnly), list.Source)
			byAge[age] = append(byAge[age], feed.Region)
			if oldest.IsZero() || list.Checked.Before(oldest) {
				oldest = list.Checked
			}
		}
	}
	var lists []string
	for _, age := range slices.Sorted(maps.Keys(byAge)) {
		lists = append(lists, strings.Join(byAge[age], ", ")+" of "+age)
	}
	switch what := "lists of Intercom's addresses: " + strings.Join(lists, "; "); {
	case len(lists) == 0:
	case time.Since(oldest) > staleAfter:
		f.warn(check, what, "Intercom may send from new addresses, which are refused",
			"look in Caddy's log why none is fetched, run doctor as the user of Caddy, or fetch them with `ip-ranges --fetch`")
	default:
		f.ok(check, "%s", what)
	}
}
