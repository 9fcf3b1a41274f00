package module

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

// deadlineRecorder keeps the last write deadline.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline time.Time
	set      int
}

func (r *deadlineRecorder) SetWriteDeadline(at time.Time) error {
	r.deadline = at
	r.set++
	return nil
}

// An answer whose last line was followed by a long search was cut off: the server writes the
// end of an answer after the handler has returned.
func TestLinesLeaveNoDeadline(t *testing.T) {
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	write(&lines{ResponseWriter: w}, adminapi.Delivery{})
	if w.set == 0 || !w.deadline.IsZero() {
		t.Errorf("set %d times, the last time to %s", w.set, w.deadline)
	}
}

// An empty page sent the status 200, so a later error was neither a status nor a line.
func TestNoLinesSendNoStatus(t *testing.T) {
	w := httptest.NewRecorder()
	out := &lines{ResponseWriter: w}
	write(out, []adminapi.Delivery{}...)
	if w.Flushed {
		t.Error("the header is sent")
	}
	away := errors.New("the database is away")
	if err := out.fail(t.Context(), away, adminapi.Last{Cursor: "0-7"}); !errors.Is(err, away) {
		t.Errorf("error %v", err)
	}
}
