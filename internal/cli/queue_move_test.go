package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeDatabase is a database whose export is a line, and which imports lines.
type fakeDatabase struct {
	queues []json.RawMessage
	name   string
	fails  error // after the first line
	got    string
}

// find has the commands find the database until the test ends.
func (d *fakeDatabase) find(t *testing.T) {
	t.Helper()
	before := FindQueueDatabase
	FindQueueDatabase = func(queues []json.RawMessage, name string) (QueueDatabase, error) {
		if name == "nonesuch" {
			return nil, errors.New("no queue of this name")
		}
		d.queues, d.name = queues, name
		return d, nil
	}
	t.Cleanup(func() { FindQueueDatabase = before })
}

func (d *fakeDatabase) Export(_ context.Context, to io.Writer, report func(QueueMove)) (QueueMove, error) {
	done := QueueMove{Database: "there.db", Jobs: 1201, Total: 1201, States: map[string]int{"completed": 1200, "available": 1}}
	report(done)
	_, err := io.WriteString(to, "the export\n")
	return done, errors.Join(err, d.fails)
}

func (d *fakeDatabase) Import(_ context.Context, from io.Reader, report func(QueueMove)) (QueueMove, error) {
	d.got, _ = bufio.NewReader(from).ReadString('\n')
	done := QueueMove{Database: "here.db", Jobs: 3, Total: 5, Imported: 1, There: 1, States: map[string]int{"completed": 1, "pending": 1}}
	report(done)
	if d.got == "refused\n" {
		done.Refused, done.Refusals, done.Undelivered = 1, []string{"line 3: job 2 was refused: \x1b"}, []string{"billing"}
	}
	return done, d.fails
}

const queueConfig = `{"apps":{"http":{"servers":{"srv0":{"routes":[{"handle":[{"handler":"intercom_webhook","queue":{"engine":"sqlite"}}]}]}}}}}`

func TestQueueExport(t *testing.T) {
	d := new(fakeDatabase)
	d.find(t)
	config := writeFile(t, queueConfig)
	stdout, stderr, code, err := runCommand(t, nil, "queue", "export", "--config", config, "--queue", "billing")
	wantText(t, "the export", stdout, "the export\n")
	wantText(t, "the summary", stderr, "STATE      JOBS\navailable  1\ncompleted  1,200\nexported 1,201 jobs from there.db\n")
	if err != nil || code != exitFine || len(d.queues) != 1 || string(d.queues[0]) != `{"engine":"sqlite"}` || d.name != "billing" {
		t.Errorf("code %d, error %v, asked for %s, %s", code, err, d.queues, d.name)
	}

	name := filepath.Join(t.TempDir(), "queue.ndjson")
	d.fails = errors.New("the disk is away")
	_, _, code, err = runCommand(t, nil, "queue", "export", "--config", config, "--output", name)
	if code != exitFailed || err == nil || err.Error() != "the disk is away (the export is not complete: run it again)" {
		t.Errorf("code %d, error %v", code, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) > 0 {
		t.Errorf("a failed export leaves %v", left)
	}
	d.fails = nil
	if err := os.WriteFile(name+".part", []byte("of an export that was killed, and longer than this one"), 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, _, _, err = runCommand(t, nil, "queue", "export", "--config", config, "--output", name, "--json")
	wantText(t, "the summary", stdout, `{"database":"there.db","exported":1201,"states":{"available":1,"completed":1200}}`+"\n")
	content, _ := os.ReadFile(name)
	info, statErr := os.Stat(name)
	if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || string(content) != "the export\n" {
		t.Errorf("error %v, %v, the file has mode %v and is %q", err, statErr, info.Mode(), content)
	}
	_, _, code, err = runCommand(t, nil, "queue", "export", "--config", config, "--output", name)
	if code != exitUsage || err == nil || !strings.Contains(err.Error(), "exists: give --output another name") {
		t.Errorf("code %d, error %v", code, err)
	}
}

func TestQueueImport(t *testing.T) {
	d := new(fakeDatabase)
	d.find(t)
	config := writeFile(t, queueConfig)
	stdout, _, code, err := runCommand(t, nil, "queue", "import", writeFile(t, "from a file\n"), "--config", config)
	wantText(t, "the summary", stdout, "STATE      JOBS\ncompleted  1\npending    1\nimported 1 job into here.db; 1 were there already\n")
	if err != nil || code != exitFine || d.got != "from a file\n" {
		t.Errorf("code %d, error %v, read %q", code, err, d.got)
	}
	stdout, stderr, code, err := runCommand(t, strings.NewReader("refused\n"), "queue", "import", "-", "--config", config, "--json")
	wantText(t, "the summary", stdout, `{"database":"here.db","imported":1,"already_there":1,"refused":1,"states":{"completed":1,"pending":1},"endpoints_without_handler":["billing"]}`+"\n")
	wantText(t, "the warnings", stderr, `line 3: job 2 was refused: \x1b`+
		"\nwarning: no handler of the config delivers the jobs of billing: give a queue this name with `name`, or with `adopt`\n")
	if code != exitFailed || err == nil || err.Error() != "1 job could not be imported" {
		t.Errorf("code %d, error %v", code, err)
	}
	d.fails = errors.New("line 4: it is no job")
	_, _, code, err = runCommand(t, strings.NewReader("x\n"), "queue", "import", "-", "--config", config)
	if want := "line 4: it is no job (2 of 5 jobs are there now, and the same command goes on from there)"; code != exitFailed || err == nil || err.Error() != want {
		t.Errorf("code %d, error %v, want %s", code, err, want)
	}
}

func TestQueueMoveUsedWrongly(t *testing.T) {
	config := writeFile(t, queueConfig)
	file := writeFile(t, "")
	without := func(t *testing.T, code int, want string, args ...string) {
		t.Helper()
		_, _, got, err := runCommand(t, strings.NewReader(""), append([]string{"queue"}, args...)...)
		if got != code || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: code %d, error %v; want %d and %q", args, got, err, code, want)
		}
	}
	if FindQueueDatabase != nil {
		t.Fatal("the tests of this package have the queue in them")
	}
	for _, args := range [][]string{{"export"}, {"import", file}} {
		without(t, exitFailed, "built without the queue", append(args, "--config", config)...)
	}
	new(fakeDatabase).find(t)
	for _, args := range [][]string{{"export"}, {"import", file}} {
		without(t, exitUsage, "--config is missing", args...)
		without(t, exitUsage, "no such file", append(args, "--config", file+"-not-there")...)
		without(t, exitUsage, "has no queue", append(args, "--config", writeFile(t, `{}`))...)
		without(t, exitUsage, "no queue of this name", append(args, "--config", config, "--queue", "nonesuch")...)
		without(t, exitUsage, "unknown flag", append(args, "--nonesuch")...)
	}
	without(t, exitUsage, "got 0 arguments", "import", "--config", config)
	without(t, exitUsage, "no such file", "import", file+"-not-there", "--config", config)
	onTerminal(t)
	without(t, exitUsage, "not for a terminal", "export", "--config", config)
	without(t, exitUsage, "stdin is a terminal", "import", "-", "--config", config)
}

func TestQueueMoveIsStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	err := QueueMove{Jobs: 3}.endedEarly(ctx, fmt.Errorf("storing: %w", ctx.Err()), "2 of 3 jobs are there")
	if err.Error() != "stopped: 2 of 3 jobs are there" {
		t.Error(err)
	}
	failed := errors.New("another process uses it")
	if err := (QueueMove{}).endedEarly(t.Context(), failed, "0 of 0 jobs are there"); !errors.Is(err, failed) || err.Error() != failed.Error() {
		t.Error(err)
	}
}
