package intercomwebhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
)

const queueNamespace = "http.intercom_webhook.queues"

// UnmarshalQueue parses `queue [<engine>] ...`. Its first token must be the current one.
func UnmarshalQueue(d *caddyfile.Dispenser) (queue caddyfile.Unmarshaler, engine string, err error) {
	engine = "sqlite"
	if d.NextArg() {
		engine = d.Val()
	}
	id := queueNamespace + "." + engine
	if _, err := caddy.GetModule(id); err != nil {
		return nil, "", d.WrapErr(unknownEngine(engine))
	}
	queue, err = caddyfile.UnmarshalModule(d, id)
	return queue, engine, err
}

var engineName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// unknownEngine returns the error for an engine that this Caddy does not have. It quotes
// only what looks like a name: anything else may be a URL with a password.
func unknownEngine(engine string) error {
	engines := modulesIn(queueNamespace)
	if len(engines) == 0 {
		return errors.New("queue: this Caddy has no engines; build them in with " +
			"xcaddy build --with github.com/caddy-intercom/caddy-intercom-webhook/queue")
	}
	switch {
	case engineName.MatchString(engine):
		return fmt.Errorf("queue: this Caddy has no engine %q: it has %s", engine, option.Choices(engine, engines))
	case strings.HasPrefix(engine, "/"), strings.HasPrefix(engine, "."), strings.HasSuffix(engine, ".db"):
		return fmt.Errorf("queue: a file is not an engine: this Caddy has %s; "+
			"sqlite takes its file in its block, as in `path <file>`", option.Enumerate(engines))
	default:
		return fmt.Errorf("queue: this is not the name of an engine: this Caddy has %s; "+
			"a database URL follows its engine, as in `queue postgres {env.DATABASE_URL}`", option.Enumerate(engines))
	}
}

// parseQueue parses the segment of the queue subdirective, and checks the queue against the
// lanes of the routes and copies.
func parseQueue(segment caddyfile.Segment, lanes laneSet, routed bool) (json.RawMessage, error) {
	module, engine, err := UnmarshalQueue(firstLine(segment))
	if err != nil {
		return nil, err
	}
	d := firstLine(segment) // so that errors name the line of the queue
	if !routed {
		return nil, d.WrapErr(errQueueWithoutRoute)
	}
	if err := module.(Queue).CheckLanes(slices.Sorted(maps.Keys(lanes))); err != nil {
		return nil, d.WrapErr(err)
	}
	return caddyconfig.JSONModuleObject(module, "engine", engine, nil), nil
}
