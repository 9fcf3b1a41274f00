package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"
)

// checkConfig adds what is to be said about a config. It reports whether the config can be
// adapted.
func checkConfig(ctx context.Context, f *findings, file, adapter string) (adapts bool, err error) {
	adapted, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		_, unreadable := os.ReadFile(file) //nolint:gosec // named by the user
		if unreadable != nil && file != "-" || adapter != "" && caddyconfig.GetAdapter(adapter) == nil {
			return false, usageError{err}
		}
		f.doesNotLoad(err)
		return false, nil //nolint:nilerr // the finding tells of it
	}
	handlers, err := handlersIn(adapted)
	if err != nil {
		f.doesNotLoad(err)
		return false, nil //nolint:nilerr // the finding tells of it
	}
	if len(handlers) == 0 {
		f.broken("config", "there is no intercom_webhook in it", "nothing takes Intercom's notifications", "add it, or name the config that Caddy runs with")
	}
	checkLoads(ctx, f, adapted)
	return true, nil
}

func (f *findings) doesNotLoad(err error) {
	f.broken("config", "it does not load: "+err.Error(), "Caddy does not start with it", "correct it; `caddy validate` says the same")
}

// checkLoads loads the config, as caddy validate does, and adds what the module warns of. A
// temporary folder is the storage, and no log of the config is opened, so that nothing of the
// running Caddy is touched.
func checkLoads(ctx context.Context, f *findings, adapted []byte) {
	dir, err := os.MkdirTemp("", "doctor-")
	if err != nil {
		f.notChecked("modules", "they were not loaded: "+err.Error(), "")
		return
	}
	defer os.RemoveAll(dir)
	copyAddressLists(ctx, f, adapted, dir)
	log := filepath.Join(dir, "warnings")
	cfg := new(caddy.Config)
	if err = caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(adapted), cfg); err == nil {
		err = validate(cfg, dir, log)
	}
	lines, _ := os.ReadFile(log) //nolint:gosec // in our own folder; nothing is there if logging failed
	f.addWarnings(lines)
	if err != nil {
		f.doesNotLoad(err)
		return
	}
	f.ok("modules", "all of them load")
	checkAdmin(f, cfg.Admin)
}

// validate loads a config with another storage, and with a file as its log.
func validate(cfg *caddy.Config, dir, log string) error {
	cfg.StorageRaw, _ = json.Marshal(map[string]string{"module": "file_system", "root": dir}) // two texts
	writer, _ := json.Marshal(map[string]string{"output": "file", "filename": log})
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}},
		"doctor":  {BaseLog: caddy.BaseLog{WriterRaw: writer, EncoderRaw: json.RawMessage(`{"format":"json"}`), Level: "WARN"}},
	}}
	return caddy.Validate(cfg)
}

// addWarnings adds what the loggers of this module have written, a JSON object a line. The
// field at is where in the config it is, and do what is to be done.
func (f *findings) addWarnings(lines []byte) {
	for line := range bytes.Lines(lines) {
		var entry map[string]any
		if json.Unmarshal(line, &entry) != nil {
			continue
		}
		text := func(key string) string {
			value, _ := entry[key].(string)
			delete(entry, key)
			return value
		}
		delete(entry, "ts")
		level, logger, what := text("level"), text("logger"), text("msg")
		if !strings.Contains(logger, "intercom") {
			continue
		}
		if at := text("at"); at != "" {
			what = at + ": " + what
		}
		do, check := text("do"), logger[strings.LastIndex(logger, ".")+1:]
		for _, key := range slices.Sorted(maps.Keys(entry)) {
			what += fmt.Sprintf(", %s: %v", key, entry[key])
		}
		if level == "warn" {
			f.warn(check, what, "", do)
		} else {
			f.broken(check, what, "", do)
		}
	}
}

// copyAddressLists copies the stored lists of Intercom's addresses, of whose age the module warns.
func copyAddressLists(ctx context.Context, f *findings, adapted []byte, dir string) {
	ofStorage, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	defer cancel()
	storage, err := storageOf(ofStorage, adapted)
	if err != nil {
		return // the config does not load
	}
	to := &certmagic.FileStorage{Path: dir}
	keys, _ := storage.List(ctx, "intercom_webhook/ip_ranges", false) // none are stored yet, or none can be read
	for _, key := range keys {
		list, err := storage.Load(ctx, key)
		if err == nil {
			err = to.Store(ctx, key, list)
		}
		if err != nil {
			f.notChecked("addresses", "a stored list of Intercom's addresses cannot be read: "+err.Error(), "run doctor as the user of Caddy")
		}
	}
}

// checkAdmin looks who can reach the admin endpoint, of which the module cannot know.
func checkAdmin(f *findings, admin *caddy.AdminConfig) {
	const check = "admin endpoint"
	admin = cmp.Or(admin, new(caddy.AdminConfig))
	listen := cmp.Or(admin.Listen, caddy.DefaultAdminListen)
	address, _ := caddy.ParseNetworkAddress(listen) // what is not valid is warned of, too
	ip, _ := netip.ParseAddr(strings.Trim(address.Host, "[]"))
	switch {
	case admin.Disabled:
		f.ok(check, "it is off; `queue` and `listen` need it")
	case address.IsUnixNetwork(), address.IsFdNetwork(), address.Host == "localhost", ip.IsLoopback():
		f.ok(check, "only this machine reaches it (%s)", listen)
	default:
		f.warn(check, "it listens on "+listen+", not only on this machine", "whoever reaches it can change the config, and read and erase notifications", "use `admin localhost:2019`, or a firewall")
	}
}
