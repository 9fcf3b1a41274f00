package intercomwebhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

const sourceNamespace = "http.ip_sources"

var (
	errSource    = errors.New("source address is not allowed")
	errForwarded = errors.New("source address is not proven: behind it in X-Forwarded-For is something that is no address; each trusted proxy must append one, without a port")
	errNoRange   = errors.New("allow static: no address range given, as in `allow static 192.0.2.0/24`")
)

// loadSources loads the IP sources in the handler's field AllowRaw.
func loadSources(ctx caddy.Context, handler any) (sources []caddyhttp.IPRangeSource, intercoms bool, err error) {
	modules, err := ctx.LoadModule(handler, "AllowRaw")
	if err != nil {
		return nil, false, fmt.Errorf("loading allow: %w", err)
	}
	for _, module := range modules.([]any) {
		if static, ok := module.(*caddyhttp.StaticIPRange); ok {
			if err := checkRanges(static.GetIPRanges(nil)); err != nil {
				return nil, false, err
			}
		}
		_, isIntercom := module.(*ipranges.Source)
		intercoms = intercoms || isIntercom
		sources = append(sources, module.(caddyhttp.IPRangeSource))
	}
	return sources, intercoms, nil
}

func checkRanges(prefixes []netip.Prefix) error {
	if len(prefixes) == 0 {
		return errNoRange
	}
	for _, prefix := range prefixes {
		if unmap(prefix).Addr().Is4In6() {
			return fmt.Errorf("allow static: %s fits no IPv4 address: write IPv4 ranges as in `allow static 192.0.2.0/24`", prefix)
		}
	}
	return nil
}

// unmap returns a range of IPv4 addresses that is written as one of IPv6, such as
// ::ffff:192.0.2.0/120, as one of IPv4.
func unmap(prefix netip.Prefix) netip.Prefix {
	const mapped = 96 // bits before the IPv4 address
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapped {
		return netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	return prefix
}

// checkForwarded returns an error unless everything is an address that trusted proxies have
// written into X-Forwarded-For, up to the client's. With trusted_proxies_strict, Caddy skips
// what is none, and uses what is to the left of it, which the sender may have written.
func checkForwarded(r *http.Request, client string) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	if !trusted || server == nil || server.TrustedProxiesStrict == 0 {
		return nil
	}
	for _, name := range server.ClientIPHeaders {
		values := r.Header.Values(name)
		if len(values) == 0 {
			continue
		}
		entries := strings.Split(strings.Join(values, ","), ",")
		for _, entry := range slices.Backward(entries) {
			host, _, err := net.SplitHostPort(entry)
			if err != nil {
				host = entry
			}
			host, _, _ = strings.Cut(strings.TrimSpace(host), "%")
			addr, err := netip.ParseAddr(host)
			if err != nil {
				return errForwarded
			}
			if addr.String() == client {
				return nil
			}
		}
	}
	return nil
}

// forgeable reports whether a server reads the client's address from a part of
// X-Forwarded-For that anybody can write.
func forgeable(server *caddyhttp.Server) bool {
	return server != nil && server.TrustedProxiesStrict == 0 && (server.TrustedProxiesUnix || hasTrustedProxies(server))
}

// hasTrustedProxies reports whether a caddyhttp.Server trusts proxies. It reads the
// unexported field trustedProxies, because Caddy clears TrustedProxiesRaw before it
// provisions handlers. In another version of Caddy, the field may be missing or have
// another type.
func hasTrustedProxies(server any) bool {
	trusted := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	return trusted.Kind() == reflect.Interface && !trusted.IsNil()
}

// parseSource parses what follows `allow`.
func parseSource(d *caddyfile.Dispenser) (json.RawMessage, error) {
	if !d.NextArg() {
		return nil, d.Err("allow: the IP source is missing, as in `allow static 192.0.2.0/24`")
	}
	name := d.Val()
	if name == "static" && d.CountRemainingArgs() == 0 {
		return nil, d.WrapErr(errNoRange)
	}
	id := sourceNamespace + "." + name
	if _, err := caddy.GetModule(id); err != nil {
		if isRange(name) {
			return nil, d.Errf("allow: an address range is not an IP source; did you mean `allow static %s`?",
				strings.Join(append([]string{name}, d.RemainingArgs()...), " "))
		}
		return nil, d.Errf("allow: this Caddy has no IP source %q: it has %s", name, option.Choices(name, modulesIn(sourceNamespace)))
	}
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, "source", name, nil), nil
}

// isRange reports whether the IP source static accepts s as a range.
func isRange(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(s)
	return err == nil || s == "private_ranges"
}

// modulesIn returns the names of all modules in a namespace.
func modulesIn(namespace string) []string {
	var names []string
	for _, module := range caddy.GetModules(namespace) {
		names = append(names, module.ID.Name())
	}
	return names
}
