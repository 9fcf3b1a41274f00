package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

func newIPRangesCommand() *cobra.Command {
	cmd := newRunCommand("ip-ranges", cobra.ArbitraryArgs, runIPRanges)
	cmd.ValidArgs = intercom.Regions[:]
	flags := cmd.Flags()
	flags.Bool("fetch", false, "Ask Intercom for the lists first, and store them")
	flags.StringP("config", "c", "", "Config file whose storage is used")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to --config")
	flags.String("url", intercom.IPRangesURL, "Where the lists are published")
	flags.Duration("timeout", 10*time.Second, "How long to wait for each list")
	flags.Bool("json", false, "Print JSON")
	return cmd
}

// addressSource is what the IP source intercom does for the command.
type addressSource interface {
	caddy.Module

	// Check returns an error if a field is wrong.
	Check() error

	// EachList calls show with each list: the one in use, or that is published now. After an error
	// it goes on with the other lists.
	EachList(ctx context.Context, storage certmagic.Storage, fetch bool, show func(region, source string, asOf time.Time, ranges []netip.Prefix) error) error
}

// runIPRanges prints the lists of the regions in the arguments.
func runIPRanges(ctx context.Context, r *run, args []string) error {
	timeout := r.Duration("timeout")
	if err := option.CheckDuration("timeout", timeout, option.Year); err != nil { // in a config, 0 is the default
		return usageError{err}
	}
	info, err := caddy.GetModule("http.ip_sources.intercom")
	if err != nil {
		return err
	}
	source := info.New().(addressSource)                                                                   // of this version
	fields, _ := json.Marshal(map[string]any{"regions": args, "url": r.String("url"), "timeout": timeout}) // texts and a number
	if err := cmp.Or(json.Unmarshal(fields, source), source.Check()); err != nil {
		return usageError{err}
	}
	config := []byte("{}")
	if file := r.String("config"); file != "" {
		if config, _, _, err = caddycmd.LoadConfig(file, r.String("adapter")); err != nil {
			return usageError{err}
		}
	}
	ofStorage, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	defer cancel()
	storage, err := storageOf(ofStorage, config)
	if err != nil {
		return usageError{err}
	}
	return source.EachList(ctx, storage, r.Bool("fetch"), r.printRanges)
}

// printRanges prints the list of a region.
func (r *run) printRanges(region, source string, asOf time.Time, ranges []netip.Prefix) error {
	return r.print(struct {
		Region string         `json:"region"`
		AsOf   time.Time      `json:"as_of"`
		Source string         `json:"source"`
		Ranges []netip.Prefix `json:"ranges"`
	}{region, asOf, source, ranges}, func(out io.Writer) {
		fmt.Fprintf(out, "# %s: %d ranges, as of %s, source: %s\n", region, len(ranges), asOf.Format(time.RFC3339), source)
		for _, prefix := range ranges {
			fmt.Fprintln(out, prefix)
		}
	})
}

// storageOf returns the storage of a config in JSON, Caddy's default one if it has none. It can be
// used until ctx ends.
func storageOf(ctx caddy.Context, config []byte) (certmagic.Storage, error) {
	var storing struct {
		StorageRaw json.RawMessage `json:"storage" caddy:"namespace=caddy.storage inline_key=module"`
	}
	if err := json.Unmarshal(config, &storing); err != nil {
		return nil, fmt.Errorf("decoding config: %w", err)
	}
	if storing.StorageRaw == nil {
		return caddy.DefaultStorage, nil
	}
	module, err := ctx.LoadModule(&storing, "StorageRaw")
	if err != nil {
		return nil, fmt.Errorf("loading storage: %w", err)
	}
	return module.(caddy.StorageConverter).CertMagicStorage()
}
