package intercomwebhook

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestExpandSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	for name, content := range map[string]string{"secret": "from a file\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SECRET", "from the environment")
	t.Setenv("BLANK", " ")
	t.Setenv("EMPTY", "")

	for name, tc := range map[string]struct {
		configured []string
		want       []string
		literals   int    // warned of
		err        string // part of it
	}{
		"ok/variable and file": {
			configured: []string{"{env.SECRET}", "{file." + file + "}"},
			want:       []string{"from the environment", "from a file"},
		},
		"ok/literal": {
			configured: []string{"literal", "{env.SECRET}"},
			want:       []string{"literal", "from the environment"},
			literals:   1,
		},
		"fail/none":                    {err: "client_secret is missing"},
		"fail/empty":                   {configured: []string{"a", ""}, err: "client_secret 2 is empty"},
		"fail/blank":                   {configured: []string{"{env.BLANK}"}, err: "client_secret 1 is empty"},
		"fail/unset variable":          {configured: []string{"{env.NO_SUCH_VARIABLE}"}, err: "no value for {env.NO_SUCH_VARIABLE}: "},
		"fail/unset beside a literal":  {configured: []string{"x{env.NO_SUCH_VARIABLE}"}, err: "no value for {env.NO_SUCH_VARIABLE}: "},
		"fail/empty variable":          {configured: []string{"{env.EMPTY}"}, err: "no value for {env.EMPTY}: "},
		"fail/missing file":            {configured: []string{"{file." + dir + "/none}"}, err: "the file there?"},
		"fail/empty file":              {configured: []string{"{file." + dir + "/empty}"}, err: "client_secret 1"},
		"fail/literal in curly braces": {configured: []string{"a{private}b"}, err: "client_secret 1: no value for what is in braces"},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			h := &Handler{ClientSecrets: tc.configured, logger: zap.New(core)}
			got, err := h.expandSecrets()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "private") {
					t.Errorf("error %v does not say %q, or too much", err, tc.err)
				}
				return
			}
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
			if logs.Len() != tc.literals {
				t.Errorf("%d warnings, want %d", logs.Len(), tc.literals)
			}
			for _, entry := range logs.All() {
				if strings.Contains(entry.Message, "literal") || len(entry.Context) != 1 {
					t.Errorf("the warning tells the secret: %v", entry)
				}
			}
		})
	}
}

func TestOtherFieldsOfCaddysServerDoNotPanic(t *testing.T) {
	type other struct{ any } // whatever it may become
	set := any("set")
	for name, tc := range map[string]struct {
		server any
		want   bool
	}{
		"set":            {&struct{ trustedProxies any }{set}, true},
		"not set":        {&struct{ trustedProxies any }{}, false},
		"no such field":  {&struct{}{}, false},
		"a struct":       {&struct{ trustedProxies other }{other{set}}, false},
		"a flag":         {&struct{ trustedProxies bool }{true}, false},
		"Caddy's, unset": {new(caddyhttp.Server), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hasTrustedProxies(tc.server); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
