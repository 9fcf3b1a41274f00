package cli

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"time"
)

// maxForwards is how many notifications are sent on at the same time.
const maxForwards = 4

// forwarder sends notifications on to one URL.
type forwarder struct {
	url    string
	sender sender // only its client is used
}

// forwarded is what came of sending a notification on.
type forwarded struct {
	Status  int     `json:"status,omitempty"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`

	answer string // the beginning of its body
}

// newForwarder makes a forwarder from the flags. It returns nil if there is no URL.
func newForwarder(r *run) (*forwarder, error) {
	target, timeout := r.String("forward-to"), r.Duration("timeout")
	if !r.Changed("forward-to") {
		return nil, nil
	}
	if err := checkURL("--forward-to", target); err != nil {
		return nil, err
	}
	if timeout <= 0 {
		return nil, usagef("--timeout %s must be longer than 0", timeout)
	}
	return &forwarder{url: target, sender: sender{client: newSendClient(timeout, r.Bool("insecure"))}}, nil
}

// notForwarded are headers of the connection between Intercom and Caddy, and such that follow
// from the body.
var notForwarded = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// send sends a notification on, and waits for the whole answer.
func (f *forwarder) send(ctx context.Context, n *listened) *forwarded {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(requestBody(n.Request)))
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
	start := time.Now()
	var got sendResult
	f.sender.roundTrip(r, &got)
	result := &forwarded{Status: got.Status, Seconds: time.Since(start).Seconds(), answer: string(got.body[:min(len(got.body), maxAnswerShown)])}
	if got.err != nil {
		result.Error = "not delivered: " + got.err.Error()
	}
	return result
}
