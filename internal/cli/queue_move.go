package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func newQueueMoveCommand() *cobra.Command {
	cmd := newRunCommand("queue-move", cobra.NoArgs, runQueueMove)
	flags := cmd.Flags()
	flags.String("from", "", "Config file with the queue that is moved (required)")
	flags.String("to", "", "Config file with the queue that it is moved to (required)")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to both")
	flags.String("endpoint", "", "Name of the only endpoint to move")
	flags.Bool("json", false, "Print the summary as JSON")
	return cmd
}

// queueModuleID is the Caddy module that knows queues. It is in each build that has one.
const queueModuleID = "intercom_webhook.commands.queue"

// queueModule returns the module; nil if the build has no queue.
func queueModule() any {
	info, err := caddy.GetModule(queueModuleID)
	if err != nil {
		return nil
	}
	return info.New()
}

// mover is what the module does.
type mover interface {
	// MoveQueue takes everything from the database of some queues to that of others, which
	// are given as they are in the configs. The summary is for people.
	MoveQueue(ctx context.Context, from, to []json.RawMessage, endpoint string, report func(done, total int64)) (summary string, err error)
}

func runQueueMove(ctx context.Context, r *run, _ []string) error {
	module, ok := queueModule().(mover)
	if !ok {
		return errors.New("this Caddy is built without the queue, or with one of another version: build it with github.com/caddy-intercom/caddy-intercom-webhook/queue")
	}
	from, err := queuesIn(r.Flags, "from")
	if err != nil {
		return err
	}
	to, err := queuesIn(r.Flags, "to")
	if err != nil {
		return err
	}
	bar := newProgress(r.notes.Writer, "moved")
	summary, err := module.MoveQueue(ctx, from, to, r.String("endpoint"), bar.show)
	bar.clear()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("stopped: what is moved stays moved, and the same command goes on from there")
	case err != nil:
		return err
	}
	return r.print(map[string]string{"summary": summary}, func(out io.Writer) { fmt.Fprintln(out, summary) })
}

// queuesIn returns the queues of all intercom_webhook handlers of the config that a flag names.
func queuesIn(fl caddycmd.Flags, flag string) ([]json.RawMessage, error) {
	file := fl.String(flag)
	if file == "" {
		return nil, usagef("--%s is missing: name the config file with the queue, as in --from Caddyfile.old --to /etc/caddy/Caddyfile", flag)
	}
	adapted, _, _, err := caddycmd.LoadConfig(file, fl.String("adapter"))
	if err != nil {
		return nil, usagef("config of --%s: %w", flag, err)
	}
	handlers, err := handlersIn(adapted)
	if err != nil {
		return nil, usagef("config of --%s: decoding: %w", flag, err)
	}
	queues := queuesOf(handlers)
	if len(queues) == 0 {
		return nil, usagef("%s of --%s has no queue: name a config with a queue in an intercom_webhook", file, flag)
	}
	return queues, nil
}

// queuesOf returns the queues of handlers, each once.
func queuesOf(handlers []map[string]any) (queues []json.RawMessage) {
	for _, handler := range handlers {
		queue, ok := handler["queue"]
		encoded, _ := json.Marshal(queue) // it was decoded
		if ok && !slices.ContainsFunc(queues, func(other json.RawMessage) bool { return bytes.Equal(other, encoded) }) {
			queues = append(queues, encoded)
		}
	}
	return queues
}

// handlersIn returns the intercom_webhook handlers of a config in JSON.
func handlersIn(config []byte) (handlers []map[string]any, err error) {
	var root map[string]any
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.UseNumber()
	if err := decoder.Decode(&root); err != nil {
		return nil, err
	}
	var search func(part any)
	search = func(part any) {
		switch part := part.(type) {
		case []any:
			for _, element := range part {
				search(element)
			}
		case map[string]any:
			if part["handler"] == "intercom_webhook" {
				handlers = append(handlers, part)
			}
			for _, key := range slices.Sorted(maps.Keys(part)) {
				search(part[key])
			}
		}
	}
	search(root)
	return handlers, nil
}
