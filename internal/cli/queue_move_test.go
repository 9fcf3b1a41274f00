package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// fakeMover is the module that moves queues.
type fakeMover struct{}

func (*fakeMover) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: queueModuleID, New: func() caddy.Module { return new(fakeMover) }}
}

// moved is what fakeMover was called with.
var moved string

func (*fakeMover) MoveQueue(ctx context.Context, from, to []json.RawMessage, endpoint string, report func(done, total int64)) (string, error) {
	moved = fmt.Sprintf("%s -> %s %s", from, to, endpoint)
	report(1, 4)
	switch endpoint {
	case "refused":
		return "", errors.New("the database is \x1b[2Jaway")
	case "slow":
		<-ctx.Done()
		return "", ctx.Err()
	}
	return "moved 4 deliveries\n0 were there\x1b already", nil
}

func (*fakeMover) CheckQueue(_ context.Context, queue json.RawMessage) (string, bool, error) {
	var q struct{ URL string }
	err := json.Unmarshal(queue, &q)
	switch q.URL {
	case "gone":
		return "", true, errors.New("database \"a\x1b\" does not exist (SQLSTATE 3D000)")
	case "away":
		return "", false, errors.New("connection refused")
	case "there":
		return "PostgreSQL at h, database d", false, err
	}
	return "", false, err
}

func TestQueueMove(t *testing.T) {
	config := func(queues ...string) string {
		for i, queue := range queues {
			queues[i] = `{"handle":[{"handler":"subroute","routes":[{"handle":[{"handler":"intercom_webhook"` + queue + `}]}]}]}`
		}
		return writeFile(t, `{"apps":{"http":{"servers":{"b":{},"a":{"routes":[`+strings.Join(queues, ",")+`]}}}}}`)
	}
	from := config(`,"queue":{"engine":"sqlite","max_age":9007199254740993}`, ``, `,"queue":{"engine":"sqlite","name":"b"}`)
	to := config(`,"queue":{"engine":"postgres","url":"{env.DATABASE_URL}"}`)
	a := new(fakeAdmin)
	run := func(args ...string) ran { return a.queue(t, append([]string{"move"}, args...)...) }

	a.noAddress = true
	wantError(t, run("--from", from, "--to", to), 1, "this Caddy is built without the queue, or with one of another version: build it with")
	caddy.RegisterModule(new(fakeMover))
	t.Run("doctor", testDoctorChecksDatabases)
	wantText(t, "summary", run("--from", from, "--to", to).out, "moved 4 deliveries\n0 were there\\x1b already\n")
	wantText(t, "queues", moved, `[{"engine":"sqlite","max_age":9007199254740993} {"engine":"sqlite","name":"b"}] -> [{"engine":"postgres","url":"{env.DATABASE_URL}"}] `)
	wantText(t, "summary as JSON", run("--from", from, "--to", to, "--json").out, `{"summary":"moved 4 deliveries\n0 were there\u001b already"}`+"\n")
	wantError(t, run("--from", from, "--to", to, "--endpoint", "refused"), 1, `the database is \x1b[2Jaway`)
	if onTerminal(t); run("--from", from, "--to", to).notes != "\r\x1b[Kmoved 1 of 4 (25%)\r\x1b[K" {
		t.Error("no progress is shown on a terminal")
	}

	moved = ""
	for want, args := range map[string][]string{
		"--from is missing":           {"--to", to},
		"--to is missing":             {"--from", from},
		"has no queue: name a config": {"--from", from, "--to", config(``)},
		"config of --from: reading":   {"--from", "does/not/exist", "--to", to},
		"unrecognized config adapter": {"--from", from, "--to", to, "--adapter", "unknown"},
		"got 1 argument: expecting":   {"x"},
	} {
		wantError(t, run(args...), 2, want)
	}
	if moved != "" {
		t.Errorf("moved %s", moved)
	}
}

func TestQueueMoveInterrupted(t *testing.T) {
	config := writeFile(t, `{"handler":"intercom_webhook","queue":{"engine":"sqlite"}}`)
	if _, err := caddy.GetModule(queueModuleID); err != nil {
		caddy.RegisterModule(new(fakeMover))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := (&fakeAdmin{noAddress: true}).command("move", "--from", config, "--to", config, "--endpoint", "slow")
	if err := root.ExecuteContext(ctx); err == nil || !strings.HasPrefix(err.Error(), "stopped: what is moved stays moved") {
		t.Errorf("got %v", err)
	}
}

func testDoctorChecksDatabases(t *testing.T) {
	var found findings
	var queues []json.RawMessage
	for _, url := range []string{"gone", "away", "there", ""} {
		queues = append(queues, json.RawMessage(`{"engine":"postgres","url":"`+url+`"}`))
	}
	checkQueues(t.Context(), &found, queues)
	found.want(t, levelBroken, "database", `database "a\x1b" does not exist (SQLSTATE 3D000); Caddy does not start with it; make the database`)
	found.want(t, levelWarning, "database", "connection refused; until it can be reached, notifications are answered 503")
	found.want(t, levelOK, "database", "PostgreSQL at h, database d can be reached")
	if len(found) != 3 {
		t.Errorf("found %+v", found)
	}
}
