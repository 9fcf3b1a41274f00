package intercomwebhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

var errNoRange = errors.New("allow static: no address range given, as in `allow static 192.0.2.0/24`")

// loadSources loads the IP sources that requests may come from.
func (h *Handler) loadSources(ctx caddy.Context) ([]caddyhttp.IPRangeSource, error) {
	if len(h.AllowRaw) == 0 {
		h.AllowRaw = []json.RawMessage{caddyconfig.JSONModuleObject(new(ipranges.Source), "source", "intercom", nil)}
	}
	modules, err := ctx.LoadModule(h, "AllowRaw")
	if err != nil {
		return nil, fmt.Errorf("loading allow: %w", err)
	}
	var sources []caddyhttp.IPRangeSource
	for _, module := range modules.([]any) {
		if static, ok := module.(*caddyhttp.StaticIPRange); ok && len(static.Ranges) == 0 {
			return nil, errNoRange
		}
		sources = append(sources, module.(caddyhttp.IPRangeSource))
	}
	return sources, nil
}

// warnOfForgeableSource warns of a server that reads the client's address from a part of
// X-Forwarded-For that anybody can write.
func (h *Handler) warnOfForgeableSource() {
	if h.server == nil || h.server.TrustedProxiesStrict > 0 {
		return
	}
	if h.server.TrustedProxiesUnix || hasTrustedProxies(h.server) {
		h.logger.Warn("source addresses can be forged: with trusted_proxies but without trusted_proxies_strict " +
			"Caddy uses the leftmost address of X-Forwarded-For, which the sender writes; add trusted_proxies_strict to the server's options")
	}
}

// hasTrustedProxies reports whether a caddyhttp.Server trusts proxies. It reads the
// unexported field trustedProxies, because Caddy clears TrustedProxiesRaw before it
// provisions handlers. In another version of Caddy, the field may be missing or have
// another type.
func hasTrustedProxies(server any) bool {
	trusted := reflect.ValueOf(server).Elem().FieldByName("trustedProxies")
	return trusted.Kind() == reflect.Interface && !trusted.IsNil()
}
