package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// testFile is a file that one instance at a time has open.
type testFile struct{ path string }

func newFile(t *testing.T) testFile {
	t.Helper()
	return testFile{path: filepath.Join(t.TempDir(), "queue.db")}
}

// instance is an open file, and what it has logged.
type instance struct {
	*engine
	logs *observer.ObservedLogs
	end  func()
}

func (f testFile) open(t *testing.T) *instance {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	opened, err := Open(t.Context(), f.path, zap.New(core))
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	closed := false
	end := func() {
		if !closed {
			closed = true
			if err := opened.Close(); err != nil {
				t.Errorf("closing: %v", err)
			}
		}
	}
	t.Cleanup(end)
	return &instance{engine: opened.(*engine), logs: logs, end: end}
}

// other opens the file as another program does.
func (f testFile) other(t *testing.T) *sql.DB {
	t.Helper()
	other, err := sql.Open("sqlite", "file:"+f.path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	other.SetMaxOpenConns(1)
	t.Cleanup(func() { other.Close() })
	return other
}

func execute(t *testing.T, on *sql.DB, statement string, args ...any) {
	t.Helper()
	if _, err := on.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func note(body string) *db.NewNotification {
	return &db.NewNotification{
		Notification: &db.Notification{Endpoint: "intercom", Workspace: "workspace", Topic: "conversation.user.created", ReceivedAt: time.Now(), Body: []byte(body)},
		Deliveries:   []db.NewDelivery{{Lane: "lane"}},
	}
}

func notes(n int) []*db.NewNotification {
	made := make([]*db.NewNotification, n)
	for i := range made {
		made[i] = note(strings.Repeat("body", 1000))
	}
	return made
}

// store stores notifications and returns the ids of their first deliveries.
func (i *instance) store(t *testing.T, batch ...*db.NewNotification) (ids []int64) {
	t.Helper()
	stored, err := i.Store(t.Context(), func() []*db.NewNotification { return batch })
	if err != nil {
		t.Fatalf("storing: %v", err)
	}
	for _, s := range stored {
		ids = append(ids, db.DeliveryID(s.ID, 0))
	}
	return ids
}

func (i *instance) storeError(t *testing.T) error {
	t.Helper()
	_, err := i.Store(t.Context(), func() []*db.NewNotification { return notes(1) })
	return err
}

func (f testFile) count(t *testing.T, table string) (n int) {
	t.Helper()
	if err := f.other(t).QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (f testFile) wantIntact(t *testing.T) {
	t.Helper()
	var verdict string
	if err := f.other(t).QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("the file is corrupt: %s (%v)", verdict, err)
	}
}

// Operators query the tables: a change of them is a change of the public interface.
func TestSchema(t *testing.T) {
	f := newFile(t)
	f.open(t)
	rows, err := f.other(t).QueryContext(t.Context(), "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []string
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join(strings.Fields(statement), " "))
	}
	want := []string{
		"CREATE TABLE attempt ( delivery INTEGER NOT NULL, at INTEGER NOT NULL, instance TEXT NOT NULL, upstream TEXT, status INTEGER, seconds REAL NOT NULL, error TEXT, answer BLOB, PRIMARY KEY (delivery, at) ) STRICT, WITHOUT ROWID",
		"CREATE TABLE body ( notification INTEGER PRIMARY KEY, bytes BLOB NOT NULL ) STRICT",
		"CREATE TABLE delivery ( id INTEGER PRIMARY KEY, notification INTEGER NOT NULL, endpoint TEXT NOT NULL, lane TEXT NOT NULL, workspace TEXT NOT NULL, topic TEXT NOT NULL, fixed INTEGER NOT NULL," +
			" state TEXT NOT NULL CHECK (state IN ('waiting', 'delivering', 'retrying', 'delivered', 'dead'))," +
			" reason TEXT CHECK (reason IN ('attempts', 'age', 'refused', 'unrouted', 'cancelled'))," +
			" attempts INTEGER NOT NULL, stored_at INTEGER NOT NULL, age_from INTEGER NOT NULL, due_at INTEGER NOT NULL, claim INTEGER, instance TEXT, finished_at INTEGER," +
			" upstream TEXT, status INTEGER, seconds REAL, error TEXT," +
			" -- The order of its object. One that is held is not claimed. At place_at it is looked at -- which delivery of the object has its turn." +
			" order_key TEXT, created_at INTEGER, held INTEGER NOT NULL DEFAULT FALSE, place_at INTEGER," +
			" CHECK ((order_key IS NULL) = (created_at IS NULL))," +
			" CHECK ((state = 'dead') = (reason IS NOT NULL))," +
			" CHECK ((state = 'delivering') = (claim IS NOT NULL) AND (state = 'delivering') = (instance IS NOT NULL))," +
			" CHECK ((state IN ('delivered', 'dead')) = (finished_at IS NOT NULL)) ) STRICT",
		"CREATE INDEX delivery_dead ON delivery (endpoint, lane, topic, reason, finished_at, id, stored_at) WHERE state = 'dead'",
		"CREATE INDEX delivery_delivering ON delivery (instance, id) WHERE state = 'delivering'",
		"CREATE INDEX delivery_held ON delivery (endpoint, lane, order_key, stored_at, id) WHERE held AND place_at IS NULL",
		"CREATE INDEX delivery_order ON delivery (endpoint, lane, order_key, state, held, created_at, id) WHERE order_key IS NOT NULL",
		"CREATE INDEX delivery_place ON delivery (endpoint, lane, place_at) WHERE place_at IS NOT NULL",
		"CREATE INDEX delivery_retrying ON delivery (endpoint, lane, held, due_at, id, stored_at) WHERE state = 'retrying'",
		"CREATE INDEX delivery_waiting ON delivery (endpoint, lane, held, workspace, id, stored_at) WHERE state = 'waiting'",
		"CREATE TABLE instance ( name TEXT PRIMARY KEY, version TEXT NOT NULL, lanes TEXT NOT NULL, configs TEXT NOT NULL, heartbeat_at INTEGER NOT NULL ) STRICT, WITHOUT ROWID",
		"CREATE TABLE lane ( endpoint TEXT NOT NULL, name TEXT NOT NULL, paused_at INTEGER, PRIMARY KEY (endpoint, name) ) STRICT, WITHOUT ROWID",
		"CREATE TABLE notification ( id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, workspace TEXT NOT NULL, topic TEXT NOT NULL, notification_id TEXT, object TEXT, received_at INTEGER NOT NULL, request TEXT NOT NULL ) STRICT",
		"CREATE INDEX notification_object ON notification (substr(object, instr(object, ':') + 1)) WHERE object IS NOT NULL",
		"CREATE UNIQUE INDEX notification_once ON notification (notification_id, workspace, endpoint) WHERE notification_id IS NOT NULL",
		"CREATE INDEX notification_without_id ON notification (received_at) WHERE notification_id IS NULL",
		"CREATE TABLE once ( key TEXT PRIMARY KEY, until INTEGER NOT NULL ) STRICT, WITHOUT ROWID",
		"CREATE INDEX once_until ON once (until)",
		"CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the tables are made by\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// plan returns how SQLite runs a statement, a line for each step.
func (i *instance) plan(t *testing.T, query string, args ...any) string {
	t.Helper()
	rows, err := i.read.query(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	return strings.Join(plan, "\n")
}

func TestClaimsSearchIndexes(t *testing.T) {
	text := newFile(t).open(t).plan(t, candidates, "intercom", "lane", "[]", "workspace", 16, now())
	for use, least := range map[string]int{
		"USING COVERING INDEX delivery_waiting (endpoint=? AND lane=? AND held=? AND workspace=?":         2,
		"USING COVERING INDEX delivery_waiting (endpoint=? AND lane=? AND held=? AND workspace>?":         2,
		"USING COVERING INDEX delivery_retrying (endpoint=? AND lane=? AND held=? AND due_at<?)":          1,
		"USING COVERING INDEX delivery_waiting (endpoint=? AND lane=? AND held=? AND workspace=? AND id>": 1,
	} {
		if strings.Count(text, use) < least {
			t.Errorf("%q is not used %d times:\n%s", use, least, text)
		}
	}
	if strings.Contains(text, "SCAN delivery") || strings.Contains(text, "SCAN body") {
		t.Errorf("there is a scan of all:\n%s", text)
	}
}

// What a worker does all the time finds its rows by their ids or by an index.
func TestStatementsScanNoTable(t *testing.T) {
	i := newFile(t).open(t)
	sent := newOutcomeRow(db.Outcome{ID: 100, Token: 1, State: db.Delivered}, now())
	for name, c := range map[string]struct {
		query string
		args  []any
	}{
		"claim":  {claimAll, []any{"[100]", 1, "instance", 0}},
		"finish": {finish, []any{jsonOf([]outcomeRow{sent}), "instance", 1}},
		"place":  {place, []any{"intercom", "lane", 1, 1}},
		"delete": {placeAgain, []any{"[100]", 1}},
		"retry":  {retried, []any{"[100]", 1}},
		"read":   {readByID, []any{"[1]"}},
	} {
		if plan := i.plan(t, c.query, c.args...); strings.Contains(plan, "SCAN d") || strings.Contains(plan, "SCAN n") || strings.Contains(plan, "SCAN b") {
			t.Errorf("%s scans a table:\n%s", name, plan)
		}
	}
}

// A copy of the database and its log, as a backup may have it, has all.
func TestAFileWithItsLogIsTakenUp(t *testing.T) {
	f, copied := newFile(t), newFile(t)
	f.open(t).store(t, notes(20)...)
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(f.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(copied.path+suffix, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied.open(t)
	if n := copied.count(t, "delivery JOIN body USING (notification)"); n != 20 {
		t.Errorf("%d are there, want 20", n)
	}
}

func TestAFileIsLockedWhileItIsOpen(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	if _, err := Open(t.Context(), f.path, zap.NewNop()); !db.IsPermanent(err) || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("opened twice: %v", err)
	}
	i.end()
	f.open(t)
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	f := newFile(t)
	f.open(t).store(t, notes(1)...)
	for _, name := range []string{f.path, f.path + "-wal", f.path + "-shm", f.path + ".lock"} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestOpenReleasesWhatAProcessLeft(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	n := note("body")
	n.Deliveries[0].Token = 5
	i.store(t, n)
	i.end()
	if held, err := f.open(t).Held(t.Context()); len(held) > 0 || err != nil {
		t.Errorf("held %v (%v)", held, err)
	}
	var state string
	if err := f.other(t).QueryRowContext(t.Context(), "SELECT state FROM delivery").Scan(&state); err != nil || state != "waiting" {
		t.Errorf("it is %s (%v)", state, err)
	}
	if n := f.count(t, "instance"); n != 1 {
		t.Errorf("%d instances are known, want 1", n)
	}
}

// Before, a database of another program that was named by mistake was taken over.
func TestForeignFilesAreRefusedAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct{ make, says string }{
		"another program's":            {"CREATE TABLE t (a); INSERT INTO t VALUES (1)", "another program"},
		"another application's id":     {"PRAGMA application_id = 77", "another program"},
		"River's tables":               {"CREATE TABLE river_job (id INTEGER PRIMARY KEY); PRAGMA application_id = 1231260529", "another program"},
		"our id without our tables":    {fmt.Sprintf("CREATE TABLE t (a); PRAGMA application_id = %d", applicationID), "another program"},
		"tables of a newer version":    {fmt.Sprintf("CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (2); PRAGMA application_id = %d", applicationID), "newer version"},
		"no database":                  {"", "file is not a database"},
		"a write-ahead log and tables": {"PRAGMA journal_mode = WAL; CREATE TABLE t (a)", "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFile(t)
			if c.make == "" {
				if err := os.WriteFile(f.path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
					t.Fatal(err)
				}
			} else {
				other := f.other(t)
				execute(t, other, c.make)
				if err := other.Close(); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.ReadFile(f.path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), f.path, zap.NewNop())
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one with %q", err, c.says)
			}
			if _, err = Join(t.Context(), f.path, zap.NewNop()); err == nil {
				t.Error("it could be joined")
			}
			if after, err := os.ReadFile(f.path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	i.store(t, notes(200)...)
	i.end()
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for page := int64(30); page < 40; page++ {
		if _, err := file.WriteAt([]byte("damaged by a test"), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(t.Context(), f.path, zap.NewNop()); !db.IsPermanent(err) || !strings.Contains(err.Error(), "corrupt") {
		t.Errorf("error %v, want one that says it is corrupt", err)
	}
}

// Before, Caddy started with such a path, and answered 503 for ever.
func TestAPathThatCannotBeWrittenIsRefused(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"loop-1", "loop-2"} {
		to := map[string]string{"loop-1": "loop-2", "loop-2": "loop-1"}[name]
		if err := os.Symlink(filepath.Join(folder, to), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range map[string]string{
		"a file as parent": filepath.Join(file, "queue.db"),
		"a long name":      filepath.Join(folder, strings.Repeat("n", 300)),
		"a loop of links":  filepath.Join(folder, "loop-1"),
		"a folder":         folder,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), path, zap.NewNop())
			if !db.IsPermanent(err) || !strings.Contains(err.Error(), filepath.Dir(path)) {
				t.Errorf("error %v, want a permanent one that names the place", err)
			}
		})
	}
	for _, err := range []error{syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.ELOOP, syscall.EISDIR} {
		if !db.IsPermanent(openError(&os.PathError{Op: "open", Path: "queue.db", Err: err})) {
			t.Errorf("%v is not permanent", err)
		}
	}
	for _, err := range []error{syscall.ENOSPC, syscall.EIO, syscall.EMFILE} {
		if db.IsPermanent(openError(&os.PathError{Op: "open", Path: "queue.db", Err: err})) {
			t.Errorf("%v is permanent", err)
		}
	}
}

// Before, the error named the database, which could be opened.
func TestAnUnreadableLogIsNamed(t *testing.T) {
	for _, suffix := range []string{"-wal", "-shm"} {
		f := newFile(t)
		i := f.open(t)
		i.store(t, notes(1)...)
		i.end()
		if err := os.Mkdir(f.path+suffix, 0o700); err != nil { // which root cannot open either
			t.Fatal(err)
		}
		_, err := Open(t.Context(), f.path, zap.NewNop())
		if !db.IsPermanent(err) || !strings.Contains(err.Error(), f.path+suffix) {
			t.Errorf("error %v, want a permanent one that names %s", err, suffix)
		}
	}
}

// Before, all answers were 503 with "context deadline exceeded", and nothing named the cause.
func TestAnotherProgramHoldsTheWriteLock(t *testing.T) {
	f := newFile(t)
	i := f.open(t)
	if err := i.write.setBusyTimeout(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	other := f.other(t)
	execute(t, other, "BEGIN IMMEDIATE")
	want := "another program holds the write lock of " + f.path
	if err := i.storeError(t); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("storing: %v, want %q", err, want)
	}
	if n := i.logs.FilterLevelExact(zap.WarnLevel).FilterMessageSnippet("another program holds the write lock").Len(); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}

	// those that wait for their turn meanwhile say it, too
	if err := i.write.lock.lock(t.Context(), storing); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := i.Store(ctx, func() []*db.NewNotification { return notes(1) }); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("storing: %v, want %q", err, want)
	}
	i.write.lock.unlock()

	execute(t, other, "COMMIT")
	i.store(t, notes(1)...)
}

// A command that moves notifications into the file works while Caddy has it.
func TestJoin(t *testing.T) {
	f := newFile(t)
	if _, err := Join(t.Context(), f.path, zap.NewNop()); err == nil {
		t.Error("a file that is not there was joined")
	}
	if _, err := os.Stat(f.path); err == nil {
		t.Error("a file was made")
	}
	i := f.open(t)
	joined, err := Join(t.Context(), f.path, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	i.store(t, notes(3)...)
	details := make([]db.Details, 3)
	for n := range details {
		details[n] = db.Details{Notification: *notes(1)[0].Notification}
		details[n].NotificationID = fmt.Sprintf("id-%d", n)
	}
	if n, err := joined.Import(t.Context(), details); n != 3 || err != nil {
		t.Errorf("%d were imported (%v), want 3", n, err)
	}
	if err := joined.Close(); err != nil {
		t.Error(err)
	}
	i.store(t, notes(1)...)
	if n := f.count(t, "notification"); n != 7 {
		t.Errorf("%d notifications, want 7", n)
	}
}
