package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// writeTimeout bounds how long a client may keep a line from being written. It is shorter than
// the 10s that Caddy waits for requests of an admin endpoint when it replaces the config.
const writeTimeout = 5 * time.Second

// lines writes the answer of the admin API: NDJSON, one JSON object a line.
type lines struct {
	encoder    *json.Encoder
	controller *http.ResponseController
	begun      bool
}

// lastLine is the last line of an answer that is not complete.
type lastLine struct {
	Error string `json:"error,omitempty"`
	*progress
	Cursor string `json:"cursor,omitempty"` // to go on with
}

func newLines(w http.ResponseWriter) *lines {
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return &lines{encoder: encoder, controller: http.NewResponseController(w)}
}

// write writes a line, and sends it at once.
func (l *lines) write(line any) { writeEach(l, []any{line}) }

// writeEach writes a line for each element, and sends them at once. Without an element it
// sends nothing, so that an error can still be the whole answer. That the client is gone
// shows in the context of the request.
func writeEach[T any](l *lines, elements []T) {
	if len(elements) == 0 {
		return
	}
	_ = l.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	for _, element := range elements {
		l.begun = true
		_ = l.encoder.Encode(element)
	}
	_ = l.controller.Flush()
	_ = l.controller.SetWriteDeadline(time.Time{}) // the end of the answer may come much later
}

// fail ends an answer with an error: as the last line, or as the whole answer if there is no
// line yet and nothing was done.
func (l *lines) fail(ctx context.Context, err error, last lastLine) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if !l.begun && (last.progress == nil || last.Done == 0) {
		return unavailable(err)
	}
	last.Error = err.Error()
	l.write(last)
	return nil
}

func badRequest(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
}

func notFound(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
}

// unavailable is the answer when the database cannot be used now.
func unavailable(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: err}
}

func allowMethod(w http.ResponseWriter, r *http.Request, method string) error {
	if r.Method == method {
		return nil
	}
	w.Header().Set("Allow", method)
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %s: use %s", r.Method, method)}
}
