package module

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
)

// Ordered makes a lane deliver what is about the same object one after the other, by `created_at` and then by
// arrival. A notification that does not say what it is about is not ordered.
type Ordered struct {
	// The path of the field that names the object, from the top of the body, as in `data.item.conversation_id`.
	// Default: `data.item.type` and `data.item.id` together, and `conversation_id` for an event of the Fin Agent API.
	By string `json:"by,omitempty"`

	// How long a notification waits from its receipt before the first attempt, so that earlier ones that arrive later
	// still go first; up to 10s. Default: 0, which is not at all.
	Hold caddy.Duration `json:"hold,omitempty"`
}

const (
	maxHold       = 10 * time.Second
	orderedSyntax = "ordered [by <field>] [hold <duration>]"
)

// check returns an error if an option is not valid. There may be none.
func (o *Ordered) check() error {
	if o == nil {
		return nil
	}
	if hold := time.Duration(o.Hold); hold < 0 || hold > 0 && hold < time.Millisecond || hold > maxHold {
		return fmt.Errorf(`ordered: hold must be 0s, or from 1ms to %s, as in "2s", and not %s`, maxHold, hold)
	}
	if o.By == "" {
		return nil
	}
	if err := fields.CheckPath(o.By); err != nil {
		return fmt.Errorf("ordered by: %w", err)
	}
	if strings.Contains(o.By, "*") {
		return fmt.Errorf("ordered by: field %q: a path with * has several values: name one field", o.By)
	}
	return nil
}

// unmarshalOrdered parses `ordered [by <field>] [hold <duration>]`.
func (l *Lane) unmarshalOrdered(d *caddyfile.Dispenser) (err error) {
	l.Ordered = new(Ordered)
	args := d.RemainingArgs()
	if len(args) >= 2 && args[0] == "by" {
		l.Ordered.By, args = args[1], args[2:]
		if l.Ordered.By == "" || l.Ordered.By == "hold" && len(args) > 0 {
			return d.Errf("ordered: by needs the path of a field: write %s", orderedSyntax)
		}
	}
	if len(args) >= 2 && args[0] == "hold" {
		hold, err := caddy.ParseDuration(args[1])
		if err != nil {
			return d.Errf("ordered: hold %q is not a duration such as 2s or 500ms", args[1])
		}
		l.Ordered.Hold, args = caddy.Duration(hold), args[2:]
	}
	if len(args) > 0 {
		return d.Errf("ordered: %q does not fit here: write %s", args[0], orderedSyntax)
	}
	return at(d, l.Ordered.check())
}
