package integration

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

var update = flag.Bool("update", false, "write what the Caddyfiles in testdata adapt to")

const goldenSeparator = "\n----------\n"

// TestCaddyfiles adapts each testdata/*.caddyfiletest and, if that works, loads the
// result as `caddy validate` does. Below the line stands the JSON, or after
// "adapt:" or "load:" the error.
func TestCaddyfiles(t *testing.T) {
	t.Setenv("SECRET", "s3cr3t")
	t.Setenv("OLD_SECRET", "s3cr3t-too")
	t.Setenv("DATABASE_URL", "postgres://caddy:p4ssw0rd@127.0.0.1:5432/intercom")
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, _ := strings.Cut(string(content), goldenSeparator)
			caddyfile += "\n"
			got := adaptAndValidate(t, caddyfile)
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(caddyfile, "\n")+goldenSeparator+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func adaptAndValidate(t *testing.T, caddyfile string) string {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	result, warnings, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "adapt: " + err.Error() + "\n"
	}
	for _, warning := range warnings {
		t.Errorf("warning: %s", warning.String())
	}
	cfg := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(result, cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(cfg); err != nil {
		return "load: " + err.Error() + "\n"
	}
	return routes(t, result)
}

// routes returns the routes of the first server, as the rest is not ours.
func routes(t *testing.T, config []byte) string {
	t.Helper()
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes json.RawMessage `json:"routes"`
				} `json:"servers"`
			} `json:"http"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, parsed.Apps.HTTP.Servers["srv0"].Routes, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return text.String() + "\n"
}
