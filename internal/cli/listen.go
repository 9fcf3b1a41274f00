package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

const (
	// maxForwards is how many notifications are sent on at the same time.
	maxForwards = 4

	// maxSilence is after how long a stream is taken for broken. Caddy sends an empty line each
	// 15 s while there is nothing to tell.
	maxSilence = 50 * time.Second

	// toldFailure is which failure to connect again is told: after some seconds, when a reload of
	// Caddy would be over.
	toldFailure = 8
)

func newListenCommand() *cobra.Command {
	cmd := newRunCommand("listen", cobra.NoArgs, runListen)
	addAdminFlags(cmd)
	flags := cmd.Flags()
	flags.StringArray("topic", nil, "Topic, or pattern of topics, to show (repeatable)")
	flags.StringArray("workspace", nil, "Id of a workspace to show (repeatable)")
	flags.Bool("json", false, "Print JSON, a notification a line")
	flags.Bool("body", false, "Show the body, too")
	flags.String("forward-to", "", "URL to send each notification to")
	addSenderFlags(flags)
	_ = cmd.RegisterFlagCompletionFunc("topic", completeTopic) // the flag exists
	return cmd
}

// runListen shows notifications until it is interrupted.
func runListen(ctx context.Context, r *run, _ []string) error {
	l, err := newListener(r)
	if err != nil {
		return err
	}
	err = l.listen(ctx)
	l.forwarding.Wait()
	return err
}

// listener shows what a stream of the admin endpoint tells, and sends it on.
type listener struct {
	*run
	client  *adminClient
	query   url.Values
	silence time.Duration // maxSilence

	forward    *sender // nil without --forward-to; only its URL and client are used
	forwarding sync.WaitGroup
	slots      chan struct{} // holds one for each notification that is being sent

	mu sync.Mutex // of the output
}

// newListener makes a listener from the flags.
func newListener(r *run) (*listener, error) {
	topics, _ := r.GetStringArray("topic") // both are arrays
	workspaces, _ := r.GetStringArray("workspace")
	client, err := newAdminClient(r.Flags)
	if err != nil {
		return nil, err
	}
	l := &listener{
		run: r, client: client, silence: maxSilence, slots: make(chan struct{}, maxForwards),
		query: url.Values{"topic": topics, "workspace": workspaces},
	}
	for _, pattern := range topics {
		if err := topicpattern.Check(pattern); err != nil {
			return nil, usagef("--topic: %w", err)
		}
		if why := topicpattern.Unknown(pattern); why != "" {
			l.notice("--topic: %s", why)
		}
	}
	if r.Changed("workspace") && len(workspaces) == 0 || slices.Contains(workspaces, "") { // pflag drops a single empty one
		return nil, usagef("--workspace is empty: give the id of a workspace")
	}
	if r.Changed("forward-to") {
		if l.forward, err = newSender(r, "--forward-to", r.String("forward-to")); err != nil {
			return nil, err
		}
	}
	if r.Bool("body") || l.forward != nil {
		l.query.Set("request", "true")
	}
	return l, nil
}

// notice tells the user something about the connection.
func (l *listener) notice(format string, args ...any) {
	fmt.Fprintf(l.notes, "-- "+format+"\n", args...)
}

var (
	errEnded  = errors.New("the stream has ended, as it does when Caddy is reloaded or stopped")
	errSilent = fmt.Errorf("not even a sign of life has come for %s: the connection is broken, as when a tunnel has stopped", maxSilence)
)

// listen shows notifications until the context ends. When the stream ends or is broken, listen
// connects again, and says once why it cannot. It returns an error if it cannot connect at the
// start, or if Caddy says that the request is wrong.
func (l *listener) listen(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 5*time.Second
	failures := 0 // since it was connected
	for first := true; ; first = false {
		connected, err := l.follow(ctx)
		answer, answered := errors.AsType[*adminError](err)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a person has ended it
		case first && !connected, answered && answer.status == http.StatusBadRequest: // a Caddy of another version
			return err
		case connected:
			l.notice("%s; connecting again", err)
			pause.Reset()
			failures = 0
		default:
			if failures++; failures == toldFailure {
				l.notice("not connected: %s; trying again", escape(err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// follow connects and shows notifications until the stream ends. It reports whether it was
// connected, and returns why it is not any more.
func (l *listener) follow(ctx context.Context) (connected bool, err error) {
	connection, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(l.silence, func() { cancel(errSilent) })
	defer silent.Stop()
	response, err := l.client.do(connection, http.MethodGet, adminapi.StreamPath, l.query) //nolint:bodyclose // it is, below
	if err != nil {
		return false, cmp.Or(context.Cause(connection), err)
	}
	defer response.Body.Close()
	if response.Header.Get("Content-Type") != "application/x-ndjson" {
		return false, fmt.Errorf("the answer of %s is no stream of notifications: name the admin endpoint of a Caddy with --address", l.client.address)
	}
	l.notice("listening to the Caddy at %s", l.client.address)
	decoder := json.NewDecoder(readerFunc(func(p []byte) (int, error) {
		silent.Reset(l.silence) // also for an empty line
		return response.Body.Read(p)
	}))
	for {
		var n listened
		err := decoder.Decode(&n.line)
		if silent.Stop(); err == nil { // a notification may wait for its turn to be sent on
			err = json.Unmarshal(n.line, &n)
		}
		if err != nil {
			return true, cmp.Or(context.Cause(connection), errEnded)
		}
		l.show(ctx, &n)
	}
}

// readerFunc is a function that implements io.Reader.
type readerFunc func(p []byte) (int, error)

func (read readerFunc) Read(p []byte) (int, error) { return read(p) }

// show prints a notification, and sends it on. It waits while maxForwards are being sent, so
// that Caddy drops what comes too fast.
func (l *listener) show(ctx context.Context, n *listened) {
	forwards := l.forward != nil && n.Request != nil
	if !forwards || !l.Bool("json") { // or else one line tells all of it
		l.print(n)
	}
	if !forwards {
		return
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	l.forwarding.Go(func() {
		defer func() { <-l.slots }()
		n.forwarded = n.sendOn(ctx, l.forward)
		l.print(n)
	})
}

// print prints a notification. One that was printed before is printed as it was sent on.
func (l *listener) print(n *listened) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprint(l.out, n.text(l.Bool("json"), l.Bool("body")))
}

// listened is a line of the stream: a notification, or how many were dropped.
type listened struct {
	adminapi.Event
	adminapi.Dropped

	line      json.RawMessage
	forwarded *sendResult // nil before it is sent on
}

// notForwarded are headers of the connection between Intercom and Caddy, and such that follow
// from the body.
var notForwarded = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// sendOn sends the notification to the URL of a sender, and waits for the whole answer.
func (n *listened) sendOn(ctx context.Context, to *sender) *sendResult {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url, bytes.NewReader(n.Request.BodyBytes()))
	if err != nil {
		return &sendResult{Error: err.Error()}
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
	return &got
}

// text returns what is printed of the notification, for people or as JSON, with or without its
// body. Once it was sent on, people are told only what came of that.
func (n *listened) text(asJSON, body bool) string {
	at := n.At.Local().Format("2006-01-02T15:04:05.000Z07:00")
	switch {
	case asJSON:
		return escapeJSON(string(n.json(body))) + "\n"
	case n.Dropped.Dropped > 0:
		return fmt.Sprintf("-- %d missed: they came faster than this could take them\n", n.Dropped.Dropped)
	case n.forwarded != nil:
		return fmt.Sprintf("%s  -> %s  %s\n", strings.Repeat(" ", len(at)), n.outcome(), escape(cmp.Or(n.ID, n.Topic)))
	}
	came := n.Outcome
	if n.Lane != "" {
		came += " (" + n.Lane + ")"
	}
	text := fmt.Sprintf("%s  %-32s  %-10s  %-38s  %s, %d %s\n", at,
		escape(n.Topic), cmp.Or(escape(n.Workspace), "-"), cmp.Or(escape(n.ID), "-"), escape(came), n.Status, inTime(n.Seconds))
	if body && n.Request != nil {
		text += prettyBody(n.Request.BodyBytes()) + "\n"
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

// outcome says what came of sending a notification on.
func (n *listened) outcome() string {
	to := n.forwarded
	switch {
	case to.Error != "":
		return "not delivered: " + escape(to.Error)
	case to.ok() || to.Answer == "":
		return statusText(to.Status) + " " + inTime(to.Seconds)
	default:
		return statusText(to.Status) + " " + inTime(to.Seconds) + ": " + escape(to.Answer)
	}
}
