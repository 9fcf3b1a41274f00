package module_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
)

// mover is the part of the module that the command line uses.
type mover interface {
	MoveQueue(ctx context.Context, from, to []json.RawMessage, endpoint string, report func(done, total int64)) (summary string, err error)
}

// queues returns queues as they are in a config, each with the name and the file of an argument
// such as "intercom=a.db".
func queues(names ...string) (all []json.RawMessage) {
	for _, one := range names {
		name, path, _ := strings.Cut(one, "=")
		all = append(all, json.RawMessage(fmt.Sprintf(`{"engine":"sqlite","name":%q,"path":%q}`, name, path)))
	}
	return all
}

func TestMoveQueue(t *testing.T) {
	info, err := caddy.GetModule("intercom_webhook.commands.queue")
	if err != nil {
		t.Fatal(err)
	}
	move := func(from, to []json.RawMessage, endpoint string) (string, error) {
		return info.New().(mover).MoveQueue(t.Context(), from, to, endpoint, func(int64, int64) {})
	}
	b := &backends{down: map[string]bool{"support": true}}
	oldFile, newFile := file(t), file(t)
	before := start(t, nil, module.NewQueue(oldFile, "intercom", options, b.handler("support")))
	before.store("a.b", "support", "notif_1")
	before.store("a.b", "support", "notif_2")
	before.eventually("support dead", 2)
	from, to := queues("intercom="+oldFile.Name), queues("crm="+newFile.Name)
	missing := filepath.Join(t.TempDir(), "missing.db")

	refused := func(name string, from, to []json.RawMessage, endpoint, want string) {
		t.Helper()
		if _, err := move(from, to, endpoint); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	refused("a running Caddy", from, to, "", "queue "+oldFile.Name+": a Caddy has it open: stop that Caddy, or reload it with another queue")
	after := start(t, nil, module.NewQueue(newFile, "crm", options, b.handler("support")))
	before.Stop()
	refused("the same", from, from, "", "both configs have the queue "+oldFile.Name)
	refused("no queue", nil, to, "", "the config to move from: it has no queue")
	refused("no file", queues("intercom="+missing), to, "", "run the command as the user that Caddy runs as")
	refused("several", from, queues("a="+newFile.Name, "b="+missing), "", "the config to move to: it has queues in several databases: choose one with --endpoint; the endpoints are a and b")
	refused("an unknown name", from, to, "intercomm", `endpoint "intercomm": no queue has this name; the names are intercom; did you mean intercom?`)
	refused("an unknown engine", []json.RawMessage{json.RawMessage(`{"engine":"mysql"}`)}, to, "", "queue mysql: this Caddy is built without it")
	refused("an unknown option", []json.RawMessage{json.RawMessage(`{"engine":"sqlite","file":"x"}`)}, to, "", "unknown field")

	summary, err := move(from, to, "")
	want := fmt.Sprintf("Moved 2 notifications with 2 deliveries from %s to %s. No handler of the new config has the endpoint \"intercom\", "+
		"so nobody delivers its 2 deliveries: give one this name with `name` in its queue.", oldFile.Name, newFile.Name)
	if err != nil || summary != want {
		t.Errorf("%q, %v, want %q", summary, err, want)
	}
	after.eventually("support dead", 2)
	if summary, err := move(from, to, ""); err != nil || !strings.HasPrefix(summary, "There is nothing to move in ") {
		t.Errorf("once more: %q, %v", summary, err)
	}

	// A database that nobody has opened yet is made.
	from, to = to, queues("crm="+filepath.Join(t.TempDir(), "unused.db"))
	after.Stop()
	if summary, err := move(from, to, ""); err != nil || !strings.HasPrefix(summary, "Moved 2 notifications with 2 deliveries from "+newFile.Name) {
		t.Errorf("to a new file: %q, %v", summary, err)
	}
	if summary, err := move(from, to, ""); err != nil || !strings.HasPrefix(summary, "There is nothing to move in ") {
		t.Errorf("to the new file, once more: %q, %v", summary, err)
	}
	if made, _ := filepath.Glob(missing + "*"); len(made) > 0 {
		t.Errorf("it has made %q", made)
	}
}
