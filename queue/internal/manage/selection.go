package manage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// Selection says which deliveries to list or to change.
type Selection struct {
	Filter        db.Filter // without Notification
	Notifications []string  // only these; nil: all
	ID            int64     // only this delivery; 0: all
	Cursor        Cursor
	Limit         int // how many at most; 0: all
}

// each calls do with the selected deliveries, a page at a time. It pauses after each look at the
// database for as long as that took, so that storing gets the processors. The cursor is behind
// what do has had; after the last delivery, it is that of the start. wait, if there is one, may
// pause for longer, and change the page.
func (s *Selection) each(ctx context.Context, in db.Inspector, page *db.Page, do func([]db.Delivery) error, wait func() error) error {
	if s.ID != 0 {
		return do([]db.Delivery{{ID: s.ID}})
	}
	notifications := s.Notifications
	if notifications == nil {
		notifications = []string{""}
	}
	filter, left := s.Filter, s.Limit
	for s.Cursor.Part < len(notifications) {
		filter.Notification, page.From = notifications[s.Cursor.Part], s.Cursor.From
		if s.Limit > 0 {
			page.Limit = min(page.Limit, left)
		}
		began := time.Now()
		found, next, err := list(ctx, in, filter, *page)
		look := time.Since(began)
		if err == nil {
			err = do(found)
		}
		if err != nil {
			return err
		}
		if s.Cursor.From = next; next == 0 {
			s.Cursor.Part++
		}
		if left -= len(found); s.Cursor.Part == len(notifications) {
			break
		}
		if s.Limit > 0 && left == 0 {
			return nil
		}
		if wait != nil {
			err = wait()
		}
		if err = cmp.Or(err, sleep(ctx, look)); err != nil {
			return err
		}
	}
	s.Cursor = Cursor{}
	return nil
}

// list is List of the database, with a time limit.
func list(ctx context.Context, in db.Inspector, filter db.Filter, page db.Page) ([]db.Delivery, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return in.List(ctx, filter, page)
}

// sleep pauses, or returns the cause of the context's end.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Cursor is where to go on. A list goes on with what is older, a change with what is newer,
// among what was selected when it began. Its text is opaque for clients.
type Cursor struct {
	Part int       // the place in Selection.Notifications
	From int64     // the id to begin with; 0: the first one
	AsOf time.Time // when a change began, by the database's clock; zero for a list
}

// String returns 0-4711 for a list, and 0-4711-1764500000000000 for a change. So neither can
// be used for the other: they go in opposite directions. From the start, there is none.
func (c Cursor) String() string {
	switch {
	case c == Cursor{}:
		return ""
	case c.AsOf.IsZero():
		return fmt.Sprintf("%d-%d", c.Part, c.From)
	default:
		return fmt.Sprintf("%d-%d-%d", c.Part, c.From, c.AsOf.UnixMicro())
	}
}

// parseCursor is the reverse of String.
func parseCursor(text string, ofChange bool) (c Cursor, err error) {
	var asOf int64
	_, _ = fmt.Sscanf(text, "%d-%d-%d", &c.Part, &c.From, &asOf) // a list has two numbers
	if asOf > 0 {
		c.AsOf = time.UnixMicro(asOf)
	}
	if c.Part < 0 || c.From < 0 || c.String() != text || text != "" && ofChange == c.AsOf.IsZero() {
		return Cursor{}, errors.New("cursor: give one that an earlier answer to the same request had in its last line")
	}
	return c, nil
}
