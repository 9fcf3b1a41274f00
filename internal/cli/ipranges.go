package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

func newIPRangesCommand() *cobra.Command {
	cmd := newCommand("ip-ranges")
	cmd.Args, cmd.ValidArgs, cmd.RunE = cobra.ArbitraryArgs, ipranges.Regions(), runE(runIPRanges)
	flags := cmd.Flags()
	flags.Bool("fetch", false, "Ask Intercom for the lists first, and store them")
	flags.StringP("config", "c", "", "Config file whose storage is used")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to --config")
	flags.String("url", ipranges.DefaultURL, "Where the lists are published")
	flags.Duration("timeout", ipranges.DefaultTimeout, "How long to wait for each list")
	flags.Bool("json", false, "Print JSON")
	return cmd
}

// runIPRanges prints the lists of the regions in the arguments.
func runIPRanges(ctx context.Context, r *run, args []string) error {
	timeout := r.Duration("timeout")
	if err := option.CheckDuration("timeout", timeout, option.Year); err != nil { // in a config, 0 is the default
		return usageError{err}
	}
	source := &ipranges.Source{Regions: args, URL: r.String("url"), Timeout: caddy.Duration(timeout)}
	feeds, err := source.Feeds()
	if err != nil {
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

	var failed error
	for _, feed := range feeds {
		list, err := feed.Newest(ctx, storage)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: reading the stored list: %w", feed.Region, err))
		}
		if r.Bool("fetch") {
			fetched, err := feed.Fetch(ctx, storage, list)
			if fetched != nil {
				list = fetched
			}
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", feed.Region, err))
			}
		}
		if err := printRanges(r, feed.Region, list); err != nil {
			return err
		}
	}
	return failed
}

// printRanges prints the list of a region.
func printRanges(r *run, region string, list *ipranges.List) error {
	return r.print(struct {
		Region string         `json:"region"`
		AsOf   time.Time      `json:"as_of"`
		Source string         `json:"source"`
		Ranges []netip.Prefix `json:"ranges"`
	}{region, list.Checked, list.Source, list.Ranges}, func(out io.Writer) {
		fmt.Fprintf(out, "# %s: %d ranges, as of %s, source: %s\n", region, len(list.Ranges), list.Checked.Format(time.RFC3339), escape(list.Source))
		for _, prefix := range list.Ranges {
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
