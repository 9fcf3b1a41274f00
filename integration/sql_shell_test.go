//go:build sqlite3

package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell runs statements in the command-line shell of SQLite, in the folder of the file.
func shell(t *testing.T, file, statements string) string {
	t.Helper()
	cmd := exec.Command("sqlite3", "-bail", filepath.Base(file))
	cmd.Dir = filepath.Dir(file)
	cmd.Stdin = strings.NewReader(".timeout 10000\n" + statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", statements, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestSQLOfTheDocsInTheShellOfSQLite(t *testing.T) {
	p := newProcess(t)
	testSQL(t, "SQLite", p, p.queued, sqlQueue{
		run:    func(statements string) { t.Helper(); shell(t, p.store, statements) },
		text:   func(query string) string { t.Helper(); return shell(t, p.store, query+";") },
		copied: filepath.Join(p.dir, "copy.db"),
	})
}

// A backup under load ends, and nobody waits for it.
func TestBackupUnderLoad(t *testing.T) {
	const backlog = 2000
	p, b := newProcess(t), newTally(t, 0)
	p.start(p.queued("route conversation.* to "+nobody+"\nroute * to "+b.address, ""))
	load := p.burst(topic, 8, 0)
	load.waitFor(t, backlog)
	load.end()

	load = p.burst("ticket.created", 1, 50*time.Millisecond)
	load.waitFor(t, 20)
	began := time.Now()
	shell(t, p.store, "VACUUM INTO 'copy.db';")
	took := time.Since(began)
	stored := load.end()
	wantAll(t, stored, b)
	if len(load.others) > 0 {
		t.Errorf("not answered with 200 meanwhile: %v", load.others)
	}
	copied := filepath.Join(p.dir, "copy.db")
	if got := shell(t, copied, "PRAGMA integrity_check;"); got != "ok" {
		t.Errorf("the copy: %s", got)
	}
	kept := shell(t, copied, "SELECT count(*) >= 2000 FROM delivery WHERE lane = 'conversation';")
	if kept != "1" {
		t.Errorf("the copy does not have all of what was stored before it was begun")
	}
	t.Logf("a copy of %d notifications and more took %s", backlog, took)
}
