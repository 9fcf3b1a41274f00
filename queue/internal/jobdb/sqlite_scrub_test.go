package jobdb

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// markerLength is the length of a marker: an M and 10 hexadecimal digits. A marker is all
// over the body that it is in, so that no part of one is without it.
const markerLength = 11

func markerAt(content []byte) bool {
	if len(content) < markerLength || content[0] != 'M' {
		return false
	}
	for _, b := range content[1:markerLength] {
		if (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	return true
}

func newMarker() string {
	random := make([]byte, 5)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	return "M" + hex.EncodeToString(random)
}

// markersIn returns all markers in the files of a database, and where each is.
func markersIn(t *testing.T, path string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, name := range []string{path, path + "-wal"} {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := range content {
			if !markerAt(content[at:]) {
				continue
			}
			if text := string(content[at : at+markerLength]); found[text] == "" {
				found[text] = fmt.Sprintf("%s at page %d, byte %d", filepath.Base(name), at/4096+1, at%4096)
			}
		}
	}
	return found
}

func TestScrub(t *testing.T) {
	for name, zeroed := range map[string]bool{"what is deleted stays in free pages": false, "what is deleted is zeroed at once": true} {
		t.Run(name, func(t *testing.T) {
			f := &sqliteFile{path: filepath.Join(t.TempDir(), "jobs.db")}
			i := f.open(t)
			db := i.DB.(*sqliteDB)
			if zeroed {
				if _, err := db.write.conn.ExecContext(t.Context(), "PRAGMA secure_delete = ON"); err != nil {
					t.Fatal(err)
				}
			}
			markers := make(map[int64]string)
			store := func(n int) {
				t.Helper()
				var jobs []*NewJob
				var own []string
				for range n {
					size := 100 + rand.IntN([]int{500, 4000}[rand.IntN(2)])
					if rand.IntN(20) == 0 {
						size = 100 + rand.IntN(60_000)
					}
					own = append(own, newMarker())
					j := newJob(0)
					j.Args = fmt.Appendf(nil, `{"body": "%s"}`, strings.Repeat(own[len(own)-1], size/markerLength+1))
					jobs = append(jobs, j)
				}
				for k, id := range i.mustStore(t, jobs...) {
					markers[id] = own[k]
				}
			}
			var ended []int64
			work := func() {
				t.Helper()
				var outcomes []Outcome
				jobs, _ := i.claim(t, Claim{Limit: 400})
				for _, job := range jobs {
					state := []State{StateCompleted, StateDiscarded, StateRetryable, StateAvailable, StateDiscarded}[rand.IntN(5)]
					if !state.Unfinished() {
						ended = append(ended, job.ID)
					}
					outcomes = append(outcomes, job.outcome(state))
				}
				rand.Shuffle(len(outcomes), func(a, b int) { outcomes[a], outcomes[b] = outcomes[b], outcomes[a] })
				i.mustFinish(t, outcomes...)
			}
			for round := range 6 {
				store(200)
				work()
				work()
				slices.Sort(ended)
				ended = slices.Compact(ended)
				rand.Shuffle(len(ended), func(a, b int) { ended[a], ended[b] = ended[b], ended[a] })
				retried := ended[:len(ended)/3]
				if _, err := i.Retry(t.Context(), retried); err != nil {
					t.Fatal(err)
				}
				ended = ended[len(retried):]
				if round%3 == 2 {
					if _, err := i.Expire(t.Context(), Expiry{Queues: []string{testQueue}, KeepDead: time.Hour, Limit: 200}); err != nil {
						t.Fatal(err)
					}
				}
			}
			var ids, deleted []int64
			for _, r := range f.rows(t) {
				ids = append(ids, r.id)
			}
			rand.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
			deleted, err := i.Delete(t.Context(), ids[:len(ids)/2])
			if err != nil || len(deleted) != len(ids)/2 {
				t.Fatalf("deleted %d of %d jobs: %v", len(deleted), len(ids)/2, err)
			}
			kept := make(map[string]bool)
			for _, r := range f.rows(t) {
				kept[markers[r.id]] = true
			}

			count := func() (n int, example string) {
				for m, where := range markersIn(t, f.path) {
					if !kept[m] {
						n, example = n+1, m+" in "+where
					}
				}
				return n, example
			}
			if n, _ := count(); n == 0 {
				t.Error("nothing of deleted jobs is found before: the test shows nothing")
			}
			if err := db.emptyLog(t.Context()); err != nil {
				t.Fatal(err)
			}
			n, where := count()
			t.Logf("in the database file alone: %d, such as %s", n, where)
			if err := i.Scrub(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, where := count(); n > 0 {
				t.Errorf("%d of the deleted jobs are found, such as %s", n, where)
			}
			for _, r := range f.rows(t) {
				if strings.Count(r.args, markers[r.id]) != len(r.args)/markerLength-1 {
					t.Fatalf("job %d has lost its args: %.100s", r.id, r.args)
				}
			}
			var verdict string
			if err := f.own(t).QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
				t.Errorf("the file is corrupt: %s (%v)", verdict, err)
			}
		})
	}
}
