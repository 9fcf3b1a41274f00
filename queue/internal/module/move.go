package module

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

func init() { caddy.RegisterModule(new(mover)) }

// mover moves what a queue has to another database. The command line finds it by its module id, because it cannot
// import it.
type mover struct{}

// CaddyModule returns the Caddy module information.
func (*mover) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "intercom_webhook.commands.queue", New: func() caddy.Module { return new(mover) }}
}

// MoveQueue moves the notifications of an endpoint, or all of them if it is empty, from the database of one config to
// that of another. It is given the queues of all handlers of both.
func (*mover) MoveQueue(ctx context.Context, from, to []json.RawMessage, endpoint string, report func(done, total int64)) (summary string, err error) {
	source, _, err := findDatabase(from, endpoint)
	if err != nil {
		return "", fmt.Errorf("the config to move from: %w", err)
	}
	target, names, err := findDatabase(to, endpoint)
	if err != nil {
		return "", fmt.Errorf("the config to move to: %w", err)
	}
	if source.Key == target.Key {
		return "", fmt.Errorf("both configs have the queue %s: there is nothing to move", source.Name)
	}
	logger := caddy.Log().Named("http.intercom_webhook.queues")
	old, err := openSource(ctx, source, logger)
	if err != nil {
		return "", fmt.Errorf("queue %s: %w", source.Name, err)
	}
	defer func() { err = cmp.Or(err, old.Close()) }()
	opened, err := openTarget(ctx, target, logger)
	if err != nil {
		return "", fmt.Errorf("queue %s: %w", target.Name, err)
	}
	defer func() { err = cmp.Or(err, opened.Close()) }()
	moved, err := manage.Move(ctx, old, opened, endpoint, report)
	if err != nil {
		return "", fmt.Errorf("queue %s: %w", source.Name, err)
	}
	if moved.Stored+moved.There == 0 {
		return fmt.Sprintf("There is nothing to move in %s.", source.Name), nil
	}
	summary = fmt.Sprintf("Moved %d notifications with %d deliveries from %s to %s.", moved.Stored, moved.Deliveries, source.Name, target.Name)
	if moved.There > 0 {
		summary += fmt.Sprintf(" %d more were there already.", moved.There)
	}
	for _, name := range slices.Sorted(maps.Keys(moved.Endpoints)) {
		if !slices.Contains(names, name) {
			summary += fmt.Sprintf(" No handler of the new config has the endpoint %q, so nobody delivers its %d deliveries: give one this name with `name` in its queue.", name, moved.Endpoints[name])
		}
	}
	return summary, nil
}

// CheckQueue connects to the database of a queue if it is a server, changes nothing, and returns its name, and whether
// an error keeps Caddy from starting.
func (*mover) CheckQueue(ctx context.Context, queue json.RawMessage) (name string, permanent bool, err error) {
	at, _, err := findDatabase([]json.RawMessage{queue}, "")
	switch {
	case err != nil:
		return "", true, err
	case at.Reach == nil:
		return "", false, nil
	}
	err = at.Reach(ctx)
	return at.Name, db.IsPermanent(err), err
}

// openSource opens the database to move from, which must exist, for this process alone.
func openSource(ctx context.Context, at worker.Database, logger *zap.Logger) (opened db.DB, err error) {
	probe, err := at.Join(ctx, logger) // makes no file, as Open does
	if err == nil {
		err = probe.Close()
	}
	if err == nil {
		opened, err = at.Open(ctx, logger)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: its default place depends on the user, so run the command as the user that Caddy runs as", err)
	} else if errors.Is(err, db.ErrLocked) {
		err = errors.New("a Caddy has it open: stop that Caddy, or reload it with another queue, and try again")
	}
	return opened, err
}

// openTarget opens the database to move to, and makes it if nobody has used it yet. It joins a Caddy that has it
// open.
func openTarget(ctx context.Context, at worker.Database, logger *zap.Logger) (db.Joined, error) {
	opened, err := at.Open(ctx, logger)
	if errors.Is(err, db.ErrLocked) {
		return at.Join(ctx, logger)
	}
	joined, _ := opened.(db.Joined) // as those of all engines
	return joined, err
}

// findDatabase returns the database of the queues, and the names of the endpoints in it. If there are several
// databases, the name of an endpoint chooses one.
func findDatabase(queues []json.RawMessage, endpoint string) (found worker.Database, names []string, err error) {
	var all []string
	for _, encoded := range queues {
		engine, err := decodeQueue(encoded)
		if err != nil {
			return found, nil, err
		}
		name := engine.CommonOptions().Name
		all = append(all, name)
		if endpoint != "" && name != endpoint {
			continue // it may be another database, whose variables need not be set
		}
		at, err := engine.Database()
		if err != nil {
			return found, nil, err
		}
		if found.Key != "" && found.Key != at.Key {
			return found, nil, fmt.Errorf("it has queues in several databases: choose one with --endpoint; the endpoints are %s", option.Enumerate(all))
		}
		found, names = at, append(names, name)
	}
	if len(queues) == 0 {
		return found, nil, errors.New("it has no queue")
	}
	if found.Key == "" {
		return found, nil, fmt.Errorf("endpoint %q: no queue has this name; the names are %s", endpoint, option.Choices(endpoint, all))
	}
	return found, names, nil
}

// decodeQueue returns the queue of a handler.
func decodeQueue(encoded json.RawMessage) (Engine, error) {
	var fields map[string]json.RawMessage
	var name string
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(fields["engine"], &name); err != nil {
		return nil, errors.New("a queue has no engine")
	}
	info, err := caddy.GetModule("http.intercom_webhook.queues." + name)
	if err != nil {
		return nil, fmt.Errorf("queue %s: this Caddy is built without it", name)
	}
	engine, ok := info.New().(Engine)
	if !ok {
		return nil, fmt.Errorf("queue %s: the engine cannot be moved", name)
	}
	delete(fields, "engine")
	own, err := json.Marshal(fields)
	if err == nil {
		err = caddy.StrictUnmarshalJSON(own, engine)
	}
	if err == nil {
		err = engine.CommonOptions().complete()
	}
	return engine, err
}
