package module

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func init() {
	httpcaddyfile.RegisterDirective("intercom_queue_ui", parseUI)
	// It shows what people must not see without leave, so it stands behind everything that
	// guards: authentication, abort, error and respond.
	httpcaddyfile.RegisterDirectiveOrder("intercom_queue_ui", httpcaddyfile.Before, "reverse_proxy")
}

// Unmarshal parses the block of options of a queue. ownName is the one option that only this
// engine has; its value is checked by checkOwn, which may be nil, and stored in own. Syntax:
//
//	{
//		<ownName>        <value>
//		name             <endpoint name>
//		workers          <n>
//		lane <name> {
//			workers <n>
//		}
//		delivery_timeout <duration>
//		max_attempts     <n>
//		max_age          <duration>
//		keep_delivered   <duration>
//		keep_dead        <duration>
//	}
func (o *Options) Unmarshal(d *caddyfile.Dispenser, ownName string, own *string, checkOwn func(string) error) error {
	names := []string{ownName, "name", "workers", "lane"}
	settings := make(map[string]setting)
	for _, s := range o.settings() {
		settings[s.name] = s
		if !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		if name != "lane" && seen[name] {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true

		var err error
		switch {
		case name == ownName:
			if !d.AllArgs(own) || *own == "" {
				return d.ArgErr()
			}
			if checkOwn != nil {
				err = at(d, checkOwn(*own))
			}
		case name == "name":
			if !d.AllArgs(&o.Name) {
				return d.ArgErr()
			}
			err = at(d, checkName(o.Name))
		case name == "lane":
			err = o.unmarshalLane(d)
		case slices.Contains(names, name):
			err = settings[name].unmarshal(d)
		default:
			err = d.Errf("unknown option %s of queue: it has %s", name, option.Choices(name, names))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) unmarshalLane(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	if _, given := o.Lanes[name]; given {
		return d.Errf("lane %s is given twice", name)
	}
	var lane Lane
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "workers" {
			return d.Errf("unknown option %s of a lane: it has %s", d.Val(), option.Choices(d.Val(), []string{"workers"}))
		}
		if lane.Workers != 0 {
			return d.Err("workers is given twice")
		}
		if err := lane.workers().unmarshal(d); err != nil {
			return err
		}
	}
	if lane.Workers == 0 {
		return d.Errf("lane %s has no option: give it one, as in { workers 4 }", name)
	}
	if o.Lanes == nil {
		o.Lanes = make(map[string]Lane)
	}
	o.Lanes[name] = lane
	return nil
}

// at adds the file and the line to an error. It returns nil for nil.
func at(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// parseUI sets up the pages from Caddyfile tokens. Syntax:
//
//	intercom_queue_ui [<path prefix>] [{
//		queue [<engine>] ...
//		unauthenticated
//	}]
func parseUI(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	ui := new(UI)
	h.Next() // consume the directive name
	if h.NextArg() {
		ui.Prefix = strings.TrimSuffix(h.Val(), "/")
		if err := checkPrefix(ui.Prefix); err != nil {
			return nil, h.WrapErr(err)
		}
		if h.NextArg() {
			return nil, h.ArgErr()
		}
	}
	for h.NextBlock(0) {
		switch name := h.Val(); {
		case name == "queue" && ui.QueueRaw != nil, name == "unauthenticated" && ui.Unauthenticated:
			return nil, h.Errf("%s is given twice", name)
		case name == "queue":
			module, engine, err := intercomwebhook.UnmarshalQueue(h.Dispenser)
			if err != nil {
				return nil, err
			}
			ui.QueueRaw = caddyconfig.JSONModuleObject(module, "engine", engine, nil)
		case name == "unauthenticated" && h.NextArg():
			return nil, h.ArgErr()
		case name == "unauthenticated":
			ui.Unauthenticated = true
		default:
			return nil, h.Errf("unknown option %s of intercom_queue_ui: it has %s", name, option.Choices(name, []string{"queue", "unauthenticated"}))
		}
	}
	var matcher caddy.ModuleMap
	if ui.Prefix != "" {
		matcher = caddy.ModuleMap{"path": h.JSON(caddyhttp.MatchPath{ui.Prefix, ui.Prefix + "/*"})}
	}
	return h.NewRoute(matcher, ui), nil
}
