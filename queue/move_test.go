package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/cli"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func queues(texts ...string) (all []json.RawMessage) {
	for _, text := range texts {
		all = append(all, json.RawMessage(text))
	}
	return all
}

func sqliteAt(path, more string) string {
	return fmt.Sprintf(`{"engine":"sqlite","path":%q%s}`, path, more)
}

func TestFindDatabase(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a.db"), filepath.Join(t.TempDir(), "b.db")
	for name, test := range map[string]struct {
		queues []string
		name   string
		want   string // the database, or the error
	}{
		"the only one":          {[]string{sqliteAt(a, "")}, "", a},
		"one for two handlers":  {[]string{sqliteAt(a, ""), sqliteAt(a, `,"name":"billing"`)}, "", a},
		"chosen":                {[]string{sqliteAt(a, ""), sqliteAt(b, `,"name":"billing"`)}, "billing", b},
		"chosen, others broken": {[]string{`{"engine":"postgres","url":"{env.UNSET_HERE}"}`, sqliteAt(b, `,"name":"billing"`)}, "billing", b},
		"several":               {[]string{sqliteAt(a, ""), sqliteAt(b, `,"name":"billing"`)}, "", "choose one with --queue; the names are billing and intercom"},
		"several of a name":     {[]string{sqliteAt(a, ""), sqliteAt(b, "")}, "intercom", "give them different names"},
		"unknown name":          {[]string{sqliteAt(a, ""), sqliteAt(b, `,"name":"billing"`)}, "biling", "did you mean billing?"},
		"a variable":            {[]string{`{"engine":"postgres","url":"{env.UNSET_HERE}"}`}, "", "no value for a placeholder"},
		"misspelt option":       {[]string{`{"engine":"sqlite","pth":"/x"}`}, "", `unknown field "pth"`},
		"invalid option":        {[]string{sqliteAt(a, `,"workers":-1`)}, "", "workers must be"},
		"other engine":          {[]string{`{"engine":"redis"}`}, "", "only sqlite and postgres can"},
		"no engine":             {[]string{`{}`}, "", "no engine"},
		"PostgreSQL":            {[]string{`{"engine":"postgres","url":"postgres://u:secret@127.0.0.1:1/d"}`}, "", "PostgreSQL at 127.0.0.1:1, database d"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := findDatabase(queues(test.queues...), test.name)
			if err == nil {
				err = errors.New(found.(*database).location.name)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func find(t *testing.T, path, more string) cli.QueueDatabase {
	t.Helper()
	db, err := findDatabase(queues(sqliteAt(path, more)), "")
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func ignore(cli.QueueMove) {}

func TestMove(t *testing.T) {
	dir := t.TempDir()
	from, to := find(t, filepath.Join(dir, "from.db"), ""), find(t, filepath.Join(dir, "to.db"), "")
	if _, err := from.Export(t.Context(), new(bytes.Buffer), ignore); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("exported what is not there: %v", err)
	}
	var jobs []jobdb.ExportedJob
	for id := range int64(3) {
		jobs = append(jobs, exportedJob(id+1))
	}
	jobs[1].Queue = "billing|support"
	jobs[2].Priority = 7 // which the database refuses
	done, err := from.Import(t.Context(), strings.NewReader(exportOf(t, jobs...)), ignore)
	if err != nil || done.Imported != 2 || done.There != 0 || done.Refused != 1 || len(done.Refusals) != 1 || done.Total != 3 {
		t.Errorf("imported %+v (%v)", done, err)
	}
	if !strings.HasPrefix(done.Refusals[0], "line 4: job 3 was refused: ") {
		t.Errorf("refused is %s", done.Refusals)
	}
	if len(done.Undelivered) != 1 || done.Undelivered[0] != "billing" {
		t.Errorf("nobody delivers %v", done.Undelivered)
	}

	var export bytes.Buffer
	done, err = from.Export(t.Context(), &export, ignore)
	if err != nil || done.Jobs != 2 || done.Total != 2 || !maps.Equal(done.States, map[string]int{"available": 2}) {
		t.Errorf("exported %+v (%v)", done, err)
	}
	// a line that is wrong leaves what precedes it
	lines := strings.SplitAfter(export.String(), "\n")
	done, err = to.Import(t.Context(), strings.NewReader(lines[0]+lines[1]+"{\n"), ignore)
	if err == nil || !strings.HasPrefix(err.Error(), "line 3: ") || done.Imported != 1 {
		t.Errorf("imported %+v (%v)", done, err)
	}
	for range 2 {
		done, err = to.Import(t.Context(), bytes.NewReader(export.Bytes()), ignore)
	}
	if err != nil || done.Imported != 0 || done.There != 2 || !maps.Equal(done.States, map[string]int{"available": 2}) {
		t.Errorf("imported %+v (%v)", done, err)
	}
	adopting := find(t, filepath.Join(dir, "to.db"), `,"adopt":["billing"]`)
	if done, err = adopting.Import(t.Context(), bytes.NewReader(export.Bytes()), ignore); err != nil || len(done.Undelivered) != 0 {
		t.Errorf("nobody delivers %v (%v)", done.Undelivered, err)
	}
}

func TestMoveLeavesWhatIsInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue.db")
	db := find(t, path, "")
	if _, err := db.Import(t.Context(), strings.NewReader("[]\n"), ignore); !errors.Is(err, errNoExport) {
		t.Errorf("imported what is no export: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a database was made for what is no export")
	}
	open, err := db.(*database).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	_, exportErr := db.Export(t.Context(), new(bytes.Buffer), ignore)
	_, importErr := db.Import(t.Context(), strings.NewReader(exportOf(t)), ignore)
	for _, err := range []error{exportErr, importErr} {
		if err == nil || !strings.Contains(err.Error(), "a Caddy has it open: stop that Caddy") {
			t.Errorf("used what is in use: %v", err)
		}
	}
}
