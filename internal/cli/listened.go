package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// listened is a line of the stream: a notification, or how many were dropped.
type listened struct {
	adminapi.Event
	adminapi.Dropped

	line      json.RawMessage
	forwarded *forwarded // nil before it is sent on
}

// forwarded is what came of sending a notification on.
type forwarded struct {
	Status  int     `json:"status,omitempty"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`

	answer string // the beginning of its body
}

// notForwarded are headers of the connection between Intercom and Caddy, and such that follow
// from the body.
var notForwarded = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// sendOn sends the notification to the URL of a sender, and waits for the whole answer.
func (n *listened) sendOn(ctx context.Context, to *sender) *forwarded {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url, bytes.NewReader(requestBody(n.Request)))
	if err != nil {
		return &forwarded{Error: err.Error()}
	}
	r.Header["User-Agent"] = nil // or else net/http adds its own if there is none
	maps.Copy(r.Header, n.Request.Header)
	for _, name := range notForwarded {
		delete(r.Header, name)
	}
	for name, value := range map[string]string{
		"X-Intercom-Topic": n.Topic, "X-Intercom-App-Id": n.Workspace, "X-Intercom-Notification-Id": n.ID,
	} {
		if value != "" {
			r.Header[name] = []string{value}
		}
	}
	got := to.roundTrip(r)
	result := &forwarded{Status: got.Status, Seconds: got.Seconds, answer: got.Answer}
	if got.err != nil {
		result.Error = "not delivered: " + got.err.Error()
	}
	return result
}

// text returns what is printed of the notification, for people or as JSON, with or without its
// body. Once it was sent on, people are told only what came of that.
func (n *listened) text(asJSON, body bool) string {
	const clock = "15:04:05.000"
	switch {
	case asJSON:
		return escapeJSON(string(n.json(body))) + "\n"
	case n.Dropped.Dropped > 0:
		return fmt.Sprintf("-- %d missed: they came faster than this could take them\n", n.Dropped.Dropped)
	case n.forwarded != nil:
		return fmt.Sprintf("%s  -> %s  %s\n", strings.Repeat(" ", len(clock)), n.forwarded, escape(cmp.Or(n.ID, n.Topic)))
	}
	outcome := n.Outcome
	if n.Lane != "" {
		outcome += " (" + n.Lane + ")"
	}
	text := fmt.Sprintf("%s  %-32s  %-10s  %-38s  %s, %d %s\n", n.At.Local().Format(clock),
		escape(n.Topic), cmp.Or(escape(n.Workspace), "-"), cmp.Or(escape(n.ID), "-"), escape(outcome), n.Status, inTime(n.Seconds))
	if body && n.Request != nil {
		text += prettyBody(requestBody(n.Request)) + "\n"
	}
	return text
}

// json returns the line of the stream. The request is left out if it is only there to be sent on.
func (n *listened) json(body bool) []byte {
	var members map[string]json.RawMessage
	if (body || n.Request == nil) && n.forwarded == nil || json.Unmarshal(n.line, &members) != nil {
		return n.line
	}
	if !body {
		delete(members, "request")
	}
	if n.forwarded != nil {
		members["forwarded"], _ = json.Marshal(n.forwarded) // cannot fail
	}
	line, _ := json.Marshal(members) // each was decoded
	return line
}

// String says what came of sending a notification on.
func (f *forwarded) String() string {
	if f.Error != "" {
		return escape(f.Error)
	}
	text := statusText(f.Status) + " " + inTime(f.Seconds)
	if f.answer != "" && !intercom.Accepts(f.Status) {
		text += ": " + escape(f.answer)
	}
	return text
}
