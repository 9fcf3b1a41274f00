package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newDoctorCommand() *cobra.Command {
	cmd := newRunCommand("doctor", cobra.MaximumNArgs(1), runDoctor)
	flags := cmd.Flags()
	addSigningFlags(flags)
	flags.String("topic", "", "Also send a sample notification of this topic, which reaches the real backend")
	flags.Bool("json", false, "Print JSON, a finding a line")
	addAdminFlags(cmd)
	flags.Lookup("config").Usage = "Config file to read; also where the address of the admin endpoint is, without --address"
	_ = cmd.RegisterFlagCompletionFunc("topic", completeTopic) // the flag exists
	return cmd
}

func runDoctor(ctx context.Context, r *run, args []string) error {
	file := r.String("config")
	if len(args) == 0 && file == "" {
		return usagef("nothing to look at: give the URL of an endpoint, or a config with --config")
	}
	var found findings
	adapts := true
	if file != "" {
		var err error
		if adapts, err = checkConfig(ctx, &found, file, r.String("adapter")); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 0:
	case !adapts:
		found.notChecked("url", "it was not examined, because the config does not load", "correct the config, or give the URL alone")
	default:
		d, err := newURLDoctor(r, &found, args[0])
		if err != nil {
			return err
		}
		d.examine(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := found.print(r.out, r.Bool("json")); err != nil {
		return err
	}
	if n := found.count(levelBroken); n > 0 {
		return fmt.Errorf("doctor found %s", count(n, "broken thing"))
	}
	return nil
}

// newURLDoctor returns a urlDoctor for the flags, which adds to what is found.
func newURLDoctor(r *run, found *findings, target string) (*urlDoctor, error) {
	topic := r.String("topic")
	if topic != "" && !intercom.IsKnown(topic) {
		return nil, usagef("%s", unknownTopic(topic))
	}
	s, err := newSigningSender(r, signature.Hub, target)
	if err != nil {
		return nil, err
	}
	ofTopic := *s
	if ofTopic.name = topic; intercom.IsFin(topic) {
		keys, err := envKeys(signature.Fin, "with")
		if err != nil {
			return nil, err
		}
		ofTopic.scheme, ofTopic.key = signature.Fin, keys[0]
	}
	s.name = intercom.TopicPing
	if _, s.body, err = s.content(); err != nil { // always the same, so that it is found again in the stream
		return nil, err
	}
	admin, err := newAdminClient(r.Flags)
	return &urlDoctor{sender: *s, findings: found, ofTopic: ofTopic, insecure: r.Bool("insecure"), admin: admin}, err
}

// level says how bad a finding is.
type level string

const (
	levelOK         level = "ok"
	levelWarning    level = "warning"
	levelBroken     level = "broken"      // notifications are lost, or anybody can send them
	levelNotChecked level = "not checked" // something stood in the way
)

// finding is what a check of doctor has found.
type finding struct {
	Level level  `json:"level"`
	Check string `json:"check"`
	What  string `json:"what"`
	Why   string `json:"why,omitempty"` // why it matters
	Do    string `json:"do,omitempty"`  // what to do
}

// findings are all that doctor has found.
type findings []finding

// add adds a finding, unless it is there: several handlers may be warned of the same.
func (f *findings) add(one finding) {
	if !slices.Contains(*f, one) {
		*f = append(*f, one)
	}
}

func (f *findings) ok(check, format string, args ...any) {
	f.add(finding{Level: levelOK, Check: check, What: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(check, what, why, do string) {
	f.add(finding{levelWarning, check, what, why, do})
}

func (f *findings) broken(check, what, why, do string) {
	f.add(finding{levelBroken, check, what, why, do})
}

func (f *findings) notChecked(check, what, do string) {
	f.add(finding{Level: levelNotChecked, Check: check, What: what, Do: do})
}

// count returns how many findings are of a level.
func (f findings) count(l level) int {
	n := 0
	for _, finding := range f {
		if finding.Level == l {
			n++
		}
	}
	return n
}

// print prints the findings by level, one a line.
func (f findings) print(w io.Writer, asJSON bool) error {
	for _, l := range []level{levelOK, levelNotChecked, levelWarning, levelBroken} {
		if f.count(l) > 0 && !asJSON {
			fmt.Fprintln(w, l)
		}
		for _, finding := range f {
			switch {
			case finding.Level != l:
			case asJSON:
				if err := printJSON(w, finding); err != nil {
					return err
				}
			default:
				fmt.Fprintf(w, "  %s: %s\n", finding.Check, finding.text())
			}
		}
	}
	return nil
}

// text returns what was found, why it matters, and what to do.
func (f finding) text() string {
	parts := slices.DeleteFunc([]string{f.What, f.Why, f.Do}, func(part string) bool { return part == "" })
	return escape(strings.Join(parts, "; "))
}

// checkConfig adds what is to be said about a config. It reports whether the config can be
// adapted.
func checkConfig(ctx context.Context, f *findings, file, adapter string) (adapts bool, err error) {
	var handlers []map[string]any
	adapted, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err == nil {
		handlers, err = handlersIn(adapted)
	} else if _, unreadable := os.ReadFile(file); unreadable != nil && file != "-" || adapter != "" && caddyconfig.GetAdapter(adapter) == nil { //nolint:gosec // named by the user
		return false, usageError{err}
	}
	if err != nil {
		f.doesNotLoad(err)
		return false, nil
	}
	if len(handlers) == 0 {
		f.broken("config", "there is no intercom_webhook in it", "nothing takes Intercom's notifications", "add it, or name the config that Caddy runs with")
	}
	checkLoads(ctx, f, adapted, handlers)
	return true, nil
}

func (f *findings) doesNotLoad(err error) {
	f.broken("config", "it does not load: "+err.Error(), "Caddy does not start with it", "correct it; `caddy validate` says the same")
}

// checkLoads loads the config, as caddy validate does, and adds what the module warns of. A
// temporary folder is the storage, and no log of the config is opened, so that nothing of the
// running Caddy is touched.
func checkLoads(ctx context.Context, f *findings, adapted []byte, handlers []map[string]any) {
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
	checkFallbacks(f, adapted)
	checkQueues(ctx, f, queuesOf(handlers))
}

// queueChecker is what the module of the build that knows queues does.
type queueChecker interface {
	// CheckQueue connects to the database of a queue, which is given as it is in the config, if the
	// database is a server. It changes nothing, and returns its name, and whether an error keeps
	// Caddy from starting.
	CheckQueue(ctx context.Context, queue json.RawMessage) (name string, permanent bool, err error)
}

func checkQueues(ctx context.Context, f *findings, queues []json.RawMessage) {
	const check = "database"
	checker, ok := queueModule().(queueChecker)
	for _, queue := range queues {
		if !ok {
			return // the config does not load without the engine
		}
		switch name, permanent, err := checker.CheckQueue(ctx, queue); {
		case permanent:
			f.broken(check, err.Error(), "Caddy does not start with it", "make the database, or correct the URL, the user, the password or the user's rights")
		case err != nil:
			f.warn(check, err.Error(), "until it can be reached, notifications are answered 503", "start it, or run doctor where Caddy runs")
		case name != "":
			f.ok(check, "%s can be reached", name)
		}
	}
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
