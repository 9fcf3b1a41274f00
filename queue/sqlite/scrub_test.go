package sqlite

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// markerLength is the length of a marker: an M and 10 hexadecimal digits. A marker is all
// over the body that it is in, so that no part of one is without it.
const markerLength = 11

func isMarker(content []byte) bool {
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
			if !isMarker(content[at:]) {
				continue
			}
			if text := string(content[at : at+markerLength]); found[text] == "" {
				found[text] = fmt.Sprintf("%s at page %d, byte %d", filepath.Base(name), at/4096+1, at%4096)
			}
		}
	}
	return found
}

// storeMarked stores notifications with a marker in each, and returns the markers by delivery.
func (i *instance) storeMarked(t *testing.T, n int) map[int64]string {
	t.Helper()
	var batch []*db.NewNotification
	var own []string
	for range n {
		size := 100 + rand.IntN([]int{500, 4000, 60_000}[rand.IntN(3)])
		own = append(own, newMarker())
		batch = append(batch, note(strings.Repeat(own[len(own)-1], size/markerLength+1)))
	}
	markers := make(map[int64]string)
	for k, id := range i.store(t, batch...) {
		markers[id] = own[k]
	}
	return markers
}

func TestScrub(t *testing.T) {
	for name, whole := range map[string]bool{"the log": false, "the whole file": true} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			i := f.open(t)
			markers := i.storeMarked(t, 600)
			var erased []int64
			for id := range markers {
				if rand.IntN(2) == 0 {
					erased = append(erased, id)
				}
			}
			changed, err := i.Change(t.Context(), db.Change{Action: db.Erase, IDs: erased})
			if err != nil || len(changed) != len(erased) {
				t.Fatalf("erased %d of %d (%v)", len(changed), len(erased), err)
			}
			gone := make(map[string]bool)
			for _, id := range erased {
				gone[markers[id]] = true
			}
			count := func() (n int, example string) {
				for marker, where := range markersIn(t, f.path) {
					if gone[marker] {
						n, example = n+1, marker+" in "+where
					}
				}
				return n, example
			}
			if n, _ := count(); n == 0 {
				t.Error("nothing of what was erased is found before: the test shows nothing")
			}
			remains, err := i.Scrub(t.Context(), whole)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(remains, "Backups") || strings.Contains(remains, "erase --vacuum") == whole {
				t.Errorf("remains: %q", remains)
			}
			// without a rewrite, copies of rows that SQLite had moved to another page can stay
			few := len(erased) / 50
			if whole {
				few = 0
			}
			if n, where := count(); n > few {
				t.Errorf("%d of %d erased are found, such as %s", n, len(erased), where)
			}
			if n := f.count(t, "delivery JOIN body USING (notification)"); n != len(markers)-len(erased) {
				t.Errorf("%d are left of %d", n, len(markers)-len(erased))
			}
			i.store(t, notes(10)...)
			f.wantIntact(t)
		})
	}
}

// Whole rewrites the file, so that what SQLite had left of rows that it moved is gone, too.
func TestScrubOfTheWholeFileMakesItSmaller(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	var ids []int64
	for id := range i.storeMarked(t, 300) {
		ids = append(ids, id)
	}
	if _, err := i.Change(t.Context(), db.Change{Action: db.Erase, IDs: ids}); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Scrub(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Scrub(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if after.Size() >= before.Size()/2 {
		t.Errorf("the file had %d bytes, and has %d", before.Size(), after.Size())
	}
}

// Kept in memory, the copy would take twice the size of the file.
func TestScrubKeepsTheCopyInAFile(t *testing.T) {
	f := newFile(t)
	f.open(t)
	own := pool(f.path, 1, "NORMAL", 6<<10)
	defer own.Close()
	if _, err := own.ExecContext(t.Context(), vacuumSQL); err != nil {
		t.Fatal(err)
	}
	var store int
	if err := own.QueryRowContext(t.Context(), "PRAGMA temp_store").Scan(&store); err != nil || store != 1 {
		t.Errorf("temp_store is %d, error %v; want 1, which is FILE", store, err)
	}
}

func TestScrubSaysThatAReaderKeepsTheLog(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	other := f.other(t)
	execute(t, other, "BEGIN")
	var n int
	if err := other.QueryRowContext(t.Context(), "SELECT count(*) FROM notification").Scan(&n); err != nil {
		t.Fatal(err)
	}
	i.store(t, notes(1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := i.Scrub(ctx, false); err == nil || !strings.Contains(err.Error(), "a process that reads "+f.path) {
		t.Errorf("error %v, want one that names the reader", err)
	}
	i.store(t, notes(1)...)
}
