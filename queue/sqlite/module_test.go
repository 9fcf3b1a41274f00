package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestCaddyfile(t *testing.T) {
	for name, c := range map[string]struct{ input, path, fails string }{
		"the engine alone":       {input: "sqlite"},
		"a path":                 {input: "sqlite {\n\tpath /data/queue.db\n}", path: "/data/queue.db"},
		"common options":         {input: "sqlite {\n\tworkers 4\n\tpath /data/queue.db\n\tkeep_dead 1h\n}", path: "/data/queue.db"},
		"an argument":            {input: "sqlite /data/queue.db", fails: `queue sqlite has no argument "/data/queue.db": name the file with path in its block, at Testfile:1`},
		"a path that is missing": {input: "sqlite {\n\tpath\n}", fails: "Testfile:2"},
		"two paths":              {input: "sqlite {\n\tpath /a /b\n}", fails: "Testfile:2"},
		"a path given twice":     {input: "sqlite {\n\tpath /a\n\tpath /b\n}", fails: "path is given twice, at Testfile:3"},
		"an option of postgres":  {input: "sqlite {\n\tschema x\n}", fails: "unknown option schema of queue"},
	} {
		t.Run(name, func(t *testing.T) {
			q := new(Queue)
			err := q.UnmarshalCaddyfile(caddyfile.NewTestDispenser(c.input))
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v, want %q", err, c.fails)
				}
			case err != nil:
				t.Error(err)
			case q.Path != c.path:
				t.Errorf("path %q, want %q", q.Path, c.path)
			}
		})
	}
}

func TestDatabaseIsKnownByItsFile(t *testing.T) {
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(folder, filepath.Join(folder, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUEUE_FOLDER", folder)
	want := filepath.Join(folder, "new", "queue.db")
	for _, path := range []string{want, folder + "/link/new/queue.db", "{env.QUEUE_FOLDER}/new/../new/queue.db"} {
		at, err := (&Queue{Path: path}).Database()
		if err != nil || at.Name != want || at.Key != "sqlite "+want {
			t.Errorf("%s: %s, %s (%v)", path, at.Name, at.Key, err)
		}
	}
	for path, fails := range map[string]string{folder: "is not a regular file", "{env.QUEUE_NOTHING}/queue.db": "path: "} {
		if _, err := (&Queue{Path: path}).Database(); err == nil || !strings.Contains(err.Error(), fails) {
			t.Errorf("%s: error %v, want %q", path, err, fails)
		}
	}
	at, err := (&Queue{Path: want}).Database()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := at.Open(t.Context(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	joined, err := at.Join(t.Context(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	joined.Close()
}
