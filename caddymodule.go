// Package intercomwebhook is a Caddy module that receives Intercom's webhooks for other
// services. It accepts requests from Intercom only, verifies their signature, tags them
// with their topic, and sends each to the right backend.
package intercomwebhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/body"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/metrics"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/shield"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

// Handler is the endpoint of an Intercom app. It receives the webhooks of all topics
// and all workspaces, and sends each one to the route for its topic and workspace.
//
// It checks each request in this order: the method, that the TLS handshake is complete,
// the source address, the form of the signature header, the size of the body, and the
// HMAC of the body's raw bytes. It refuses a request that fails a check with 405, 425,
// 403, 401, 413 or 400, as an error that `handle_errors` can handle. It answers HEAD
// with 200, because Intercom validates the URL with it.
//
// The first route that fits a notification handles it. Intercom does not get the
// backend's own answer, because it would end the subscription on 410 and throttle it on
// 429. It gets 200 if the backend answered 2xx, or else 502, 503 or 504. A notification
// that fits no route is answered with 200, logged and counted; so is one that fits a route
// with `ignore`, which nobody gets. A `ping`, which Intercom
// sends to test the endpoint, is answered with 200 unless it fits a route that names it. Without
// routes, the next handler is called, and its answer is not changed.
//
// With a queue, a notification is also stored for each of the copies that it fits, and
// delivered to them on their own.
//
// An app request (health check, Canvas Kit, uninstall) goes to the routes for app
// requests, and their answer is not changed.
//
// Headers named `X-Intercom-*` are removed from every request. Verified notifications
// get `X-Intercom-Topic`, `X-Intercom-App-Id` and `X-Intercom-Notification-Id`, and are
// otherwise not changed. These placeholders are set, and are fields of the access log:
//
// Placeholder | Description
// ------------|-------------
// `{http.intercom_webhook.kind}` | `notification`, `fin` for a Fin Agent API event, or `app_request`
// `{http.intercom_webhook.topic}` | The topic of the notification
// `{http.intercom_webhook.app_id}` | The workspace of the notification
// `{http.intercom_webhook.id}` | The id of the notification; empty for `ping`
// `{http.intercom_webhook.created_at}` | When Intercom created the notification, in Unix seconds; 0 if not given
// `{http.intercom_webhook.delivery_attempts}` | How often Intercom has sent the notification; 0 if not given
// `{http.intercom_webhook.field.<field>}` | The text of a field of the body, such as `data.item.state`; empty if there is none
// `{http.intercom_webhook.reason}` | Why the request was refused
type Handler struct {
	// The client secrets of the app in Intercom's Developer Hub. A request is accepted
	// if any of them has signed it, so that a secret can be changed without losing
	// notifications. Placeholders such as `{env.*}` are expanded when the config is
	// loaded. Line breaks and blanks around a secret do not count. A secret with blanks
	// or invisible characters inside is refused.
	//
	// A value that is a single `{file.*}` and nothing else means all secrets in that
	// file, one a line. Blank lines, and lines that begin with `#`, have none. The file
	// can be changed without a reload: while requests come, it is read at most once a
	// second. If it becomes unreadable or empty, or a line cannot be a secret, the
	// secrets stay as they are, and a warning is logged.
	//
	// Required.
	ClientSecrets []string `json:"client_secrets,omitempty"`

	// The secrets of the Fin Agent API, which Intercom shows under Fin AI Agent > Deploy > Fin
	// Agent API. Events that one of them has signed are accepted as notifications, with the
	// topic `fin.` and their `event_name`, no workspace, and an id made from their bytes. The
	// values have the form of client secrets, and none of those may be among them. Default:
	// refuse Fin Agent API events.
	FinSecrets []string `json:"fin_secrets,omitempty"`

	// The IP sources that requests may come from. One of them must have the client's
	// address. Default: `intercom`, all regions.
	AllowRaw []json.RawMessage `json:"allow,omitempty" caddy:"namespace=http.ip_sources inline_key=source"`

	// The size of the largest body that is accepted, in bytes: at most 67108864 (64 MiB),
	// because a body is in memory as a whole. Default: 4194304 (4 MiB).
	MaxSize int64 `json:"max_size,omitempty"`

	// How long the backend may take, counted from the arrival of the request. After
	// that, the answer is 504. With a queue, how long storing may take; after that, the
	// answer is 503. Intercom waits for 5 s. Default: 4.5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The routes for notifications. Only the first route whose matchers fit handles a
	// notification. Default: call the next handler.
	Routes []Route `json:"routes,omitempty"`

	// The copies of notifications for further backends, whatever route takes them. They
	// need a queue. Default: none.
	Copies []Copy `json:"copies,omitempty"`

	// The routes for app requests, which have an `X-Body-Signature` and expect an
	// answer of their own. Default: refuse app requests.
	AppRequests caddyhttp.RouteList `json:"app_requests,omitempty"`

	// The queue that stores notifications durably before they are answered, and
	// delivers them to the routes later. Default: deliver first, then answer.
	QueueRaw json.RawMessage `json:"queue,omitempty" caddy:"namespace=http.intercom_webhook.queues inline_key=engine"`

	verifier *verifier
	router   *router
	storer   *storer // nil without a queue
	recorder *recorder

	logger *zap.Logger
	// floodLogger writes each message at most once a second. It is for events that
	// anybody on the internet can cause.
	floodLogger *zap.Logger

	counted []metrics.Lane // in metrics.Lanes
}

const (
	defaultMaxSize = 4 << 20
	defaultTimeout = 4500 * time.Millisecond
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.intercom_webhook",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision loads the guest modules and expands the secrets.
func (h *Handler) Provision(ctx caddy.Context) error {
	hash := hashOf(h)
	place, known := places.Load(hash)
	err := h.provision(ctx, hash)
	if err != nil && known {
		return fmt.Errorf("%w, at %s", err, place)
	}
	return err
}

func (h *Handler) provision(ctx caddy.Context, hash [sha256.Size]byte) error {
	h.logger = ctx.Logger()
	h.floodLogger = logging.OncePerSecond(h.logger)
	h.MaxSize = cmp.Or(h.MaxSize, defaultMaxSize)
	h.Timeout = cmp.Or(h.Timeout, caddy.Duration(defaultTimeout))
	if len(h.AllowRaw) == 0 {
		h.AllowRaw = []json.RawMessage{caddyconfig.JSONModuleObject(new(ipranges.Source), "source", "intercom", nil)}
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	emitter, err := events.New(ctx)
	if err != nil {
		return err
	}
	h.recorder = &recorder{queued: h.QueueRaw != nil, logger: h.logger, floodLogger: h.floodLogger, events: emitter}
	loaded, err := loadApp(ctx)
	if err != nil {
		return err
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	placed := withPlace(h.logger, hash)
	warnOfTimeout(placed, time.Duration(h.Timeout))
	if h.verifier, err = newVerifier(ctx, h, server, placed); err != nil {
		return err
	}
	if h.router, err = newRouter(ctx, h, placed); err != nil {
		return err
	}
	if h.storer, err = newStorer(ctx, h, server, hash[:]); err != nil {
		return err
	}
	for _, lane := range h.router.lanes() {
		one := metrics.Lane{Label: h.router.label(lane.Name), Kind: lane.kind()}
		startCounters(one.Label)
		metrics.Lanes.Add(one)
		h.counted = append(h.counted, one)
	}
	one := appHandler{router: h.router, server: server}
	if h.storer != nil {
		one.ready = h.storer.queue.Ready
	}
	loaded.handlers = append(loaded.handlers, one)
	return nil
}

// Validate refuses limits that are out of range.
func (h *Handler) Validate() error {
	if err := body.CheckMaxSize(h.MaxSize); err != nil {
		return err
	}
	return option.CheckDuration("timeout", time.Duration(h.Timeout), option.Year)
}

// Cleanup forgets the lanes of this config.
func (h *Handler) Cleanup() error {
	for _, lane := range h.counted {
		metrics.Lanes.Remove(lane)
	}
	return nil
}

// ServeHTTP verifies a request, reads its envelope, tags it, stores or routes it, and
// answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	start := time.Now()
	deadline := start.Add(time.Duration(h.Timeout))
	t := newTag(r)

	if r.Method == http.MethodHead {
		history.Intercom.Head.Set(start)
		body.Abandon(w, r)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	signed, refused := h.verifier.verify(w, r, deadline)
	if refused != nil {
		return h.refuse(w, r, t, refused)
	}
	defer signed.memory.Release()
	secretMatches(signed.scheme, signed.secret).Inc()
	body.Restore(r, signed.body)

	if signed.scheme == signature.Body {
		t.kind, t.content = kindAppRequest, signed.body
		var err error
		if t.fields, err = h.router.fields.Read(signed.body); errors.Is(err, fields.ErrRepeated) {
			return h.refuse(w, r, t, newRefusal(http.StatusBadRequest, reasonEnvelope, "%w", err))
		}
		return h.runUnshielded(caddyhttp.NewResponseRecorder(w, nil, nil), r, t, h.AppRequests.Compile(next))
	}

	parsed, err := h.router.parse(t, signed.scheme, signed.body)
	if err != nil {
		return h.refuse(w, r, t, newRefusal(http.StatusBadRequest, reasonEnvelope, "%w", err))
	}
	t.request = live.Capture(r, parsed, signed.body, start)
	t.setNotification(r.Header, parsed)
	lastVerified.Set(float64(start.UnixMilli()) / 1e3)
	history.Intercom.Verified.Set(start)

	ctx, cancel := context.WithDeadline(r.Context(), deadline)
	defer cancel()
	// The request must stay the same object, because Caddy's placeholders read from it. If
	// handlers got a copy, the placeholders would not see their changes, and
	// {http.request.body} would leave the copy with an empty body.
	outer := r.Context()
	*r = *r.WithContext(ctx)
	defer func() { *r = *r.WithContext(outer) }()

	if len(h.router.routes) == 0 {
		return h.callNext(w, r, t, next, start)
	}
	answer := shield.NewAnswer(w)
	late := http.StatusGatewayTimeout
	if h.storer != nil {
		late = http.StatusServiceUnavailable // it could not store the notification in time
	}
	defer answer.GiveAtDeadline(deadline, late, r.ProtoMajor)()
	outcome, status := h.handle(r, t, signed.body)
	status, answered := answer.Give(status)
	h.recorder.observe(t, outcome, status, start, answered)
	return nil
}

// handle answers a ping, stores a notification, or delivers it. It returns the outcome and
// the status for Intercom.
func (h *Handler) handle(r *http.Request, t *tag, content []byte) (outcome string, status int) {
	switch {
	case t.Topic == intercom.TopicPing && !h.router.takesPing(r, t):
		return outcomePing, http.StatusOK
	case h.storer != nil:
		return h.storer.store(r, t, content)
	default:
		return h.router.deliver(r, t)
	}
}

// refuse returns the error with which Caddy answers a request that is refused.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, t *tag, why *refusal) error {
	t.reason = why.reason
	body.CloseConnection(w, r)
	h.recorder.refused(r, why)
	if why.reason == reasonMethod {
		w.Header()["Allow"] = []string{"HEAD, POST"}
	}
	r.Body, r.ContentLength = http.NoBody, 0 // what is left of it is nothing that handle_errors could send on
	return caddyhttp.Error(why.status, why)
}

// callNext calls the next handler, and counts the answer that it gives.
func (h *Handler) callNext(w http.ResponseWriter, r *http.Request, t *tag, next caddyhttp.Handler, start time.Time) error {
	status := http.StatusInternalServerError // if the next handler panics
	defer func() { h.recorder.observe(t, outcomeOf(status), status, start, time.Now()) }()

	recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
	err := h.runUnshielded(recorder, r, t, next)
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		status = handlerErr.StatusCode
	} else if err == nil {
		status = cmp.Or(recorder.Status(), http.StatusOK) // net/http writes 200 if no handler writes a status
	}
	return err
}

// runUnshielded runs handlers and does not change their answer. If one panics, the answer
// is 502. If an answer has begun by then, the connection is closed.
func (h *Handler) runUnshielded(w caddyhttp.ResponseRecorder, r *http.Request, t *tag, handler caddyhttp.Handler) error {
	err := shield.Serve(handler, w, r)
	if err == shield.ErrCutShort { //nolint:errorlint // returned by Serve itself
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	panicked, ok := errors.AsType[*shield.PanicError](err)
	if !ok {
		return err
	}
	logPanic(h.floodLogger, panicked, zap.Inline(t))
	if w.Status() != 0 {
		panic(http.ErrAbortHandler)
	}
	return caddyhttp.Error(http.StatusBadGateway, panicked)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
