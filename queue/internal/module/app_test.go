package module_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/module"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// retrying are options with which a failed delivery waits for its next attempt.
var retrying = worker.Options{
	LaneOptions:   worker.LaneOptions{DeliveryTimeout: 10 * time.Second, MaxAge: time.Hour, Workers: 16},
	KeepDelivered: time.Hour, KeepDead: time.Hour,
}

// Deliveries in the former file were stranded without a word when path was changed.
func TestAnotherDatabaseIsWarnedOf(t *testing.T) {
	b := &backends{down: map[string]bool{"support": true}}
	at := file(t)
	before := start(t, nil, module.NewQueue(at, "intercom", retrying, b.handler("support")))
	before.store("a.b", "support", "notif_1")
	before.store("a.b", "support", "notif_2")
	before.eventually("support retrying", 2)
	before.untilLanes("/lanes", "support", "retrying", 2)

	same := start(t, nil, module.NewQueue(at, "intercom", retrying, b.handler("support", "billing")))
	if n := same.logs.Len(); n != 0 {
		t.Errorf("the same database: %v", same.logs.All())
	}
	before.Stop()
	start(t, nil) // without any queue
	same.Stop()
	logs := same.logs.All()
	if n := before.logs.Len(); n != 0 {
		t.Errorf("the same database, at the end of the config: %v", before.logs.All())
	}
	if len(logs) != 1 || !strings.Contains(logs[0].Message, "move them with `caddy intercom-webhook queue move --from <old config> --to <new config>`") ||
		logs[0].ContextMap()["endpoint"] != "intercom" || logs[0].ContextMap()["database"] != at.Name || logs[0].ContextMap()["waiting"] != int64(2) {
		t.Errorf("another database: %v", logs)
	}
}

func TestEndpointsThatNoConfigHasAreWarnedOf(t *testing.T) {
	b := &backends{down: map[string]bool{"support": true}}
	at := file(t)
	before := start(t, nil, module.NewQueue(at, "old", retrying, b.handler("support")), module.NewQueue(at, "intercom", retrying, b.handler("support")))
	before.store("a.b", "support", "notif_1")
	before.eventually("old|support retrying", 1)
	before.untilLanes("/lanes?endpoint=old", "support", "retrying", 1)
	after := start(t, nil, module.NewQueue(at, "intercom", retrying, b.handler("support")))
	before.Stop()
	if after.logs.Len() != 0 {
		t.Errorf("at the start: %v", after.logs.All())
	}
	after.WarnOfStranded(t.Context())
	logs := after.logs.All()
	if len(logs) != 1 || !strings.Contains(logs[0].Message, "docs/queue.md#changing-the-name-of-an-endpoint") || logs[0].ContextMap()["endpoint"] != "old" ||
		logs[0].ContextMap()["waiting"] != int64(1) {
		t.Errorf("got %v", logs)
	}
}

func TestAConfigThatCannotStartLeavesNothingOpen(t *testing.T) {
	at, b := file(t), &backends{}
	queue := func(lane string) *module.Base { return module.NewQueue(at, "intercom", options, b.handler(lane)) }
	if _, err := module.Start(zap.NewNop(), []*module.Base{queue("a"), queue("b")}); err == nil || !strings.Contains(err.Error(), "two different handlers have the name") {
		t.Errorf("two handlers: error %v", err)
	}
	ui := module.NewUI("")
	if _, err := module.Start(zap.NewNop(), nil, ui); err == nil || !strings.Contains(err.Error(), "no intercom_webhook of the config has such a queue") {
		t.Errorf("pages without a queue: error %v", err)
	}
	several := []*module.Base{queue("a"), module.NewQueue(file(t), "crm", options, b.handler("a"))}
	if _, err := module.Start(zap.NewNop(), several, module.NewUI("")); err == nil || !strings.Contains(err.Error(), "the config has several queues") {
		t.Errorf("pages of several queues: error %v", err)
	}
	opened, err := at.Open(t.Context(), zap.NewNop()) // which a queue that is open would have locked
	if err != nil {
		t.Fatalf("the file is still open: %v", err)
	}
	if err := errors.Join(opened.Close()); err != nil {
		t.Error(err)
	}
}
