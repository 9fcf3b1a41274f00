// Package events emits events of this module through Caddy's app for events.
package events

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
)

// The names of the events.
const (
	DeadLetter      = "intercom_webhook.dead_letter"
	LaneDown        = "intercom_webhook.lane_down"
	LaneUp          = "intercom_webhook.lane_up"
	ErrorBudget     = "intercom_webhook.error_budget"
	IPRangesChanged = "intercom_webhook.ip_ranges_changed"
)

// Emitter emits events with one module of a config as their origin. A nil Emitter emits
// nothing.
type Emitter struct {
	ctx caddy.Context
	app *caddyevents.App
}

// New returns an Emitter for the module that ctx belongs to. It must be called while the
// module is provisioned.
func New(ctx caddy.Context) (*Emitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	return &Emitter{ctx: ctx, app: app.(*caddyevents.App)}, nil
}

// current returns the app of the config that runs now, or else of the Emitter's own, which
// may be about to start. The context has the Emitter's module as the origin.
func (e *Emitter) current() (caddy.Context, *caddyevents.App) {
	ctx := e.ctx
	active := caddy.ActiveContext()
	app, err := active.AppIfConfigured("events")
	if err != nil {
		return ctx, e.app
	}
	ctx.Context = active.Context
	return ctx, app.(*caddyevents.App)
}

var (
	// handling has a place for each event that waits for the handlers of those before it.
	handling = make(chan func(), 100)
	start    sync.Once
	dropped  atomic.Int64
)

// Emit emits an event through the config that runs now. It calls data only if somebody may
// want the event, and does not wait for the handlers. If too many events wait for slow
// handlers, Emit drops the event, and logs how many it has dropped.
func (e *Emitter) Emit(name string, data func() map[string]any) {
	if e == nil {
		return
	}
	if _, app := e.current(); !app.ShouldEmit(name) {
		return
	}
	values := data()
	start.Do(func() {
		go func() {
			for handle := range handling { // one at a time, in their order
				handle()
			}
		}()
	})
	select {
	case handling <- func() { e.handle(name, values) }:
	default:
		logger().Warn("event is dropped: the handlers of events are too slow",
			zap.String("event", name), zap.Int64("dropped", dropped.Add(1)))
	}
}

// handle runs the handlers of an event in the config that runs by now.
func (e *Emitter) handle(name string, data map[string]any) {
	defer func() {
		if p := recover(); p != nil { // here nobody else would catch it
			logger().Error("a handler of events panicked", zap.String("event", name),
				zap.String("panic", fmt.Sprintf("%T", p)), zap.ByteString("stack", debug.Stack()))
		}
	}()
	ctx, app := e.current()
	app.Emit(ctx, name, data)
}

var logger = sync.OnceValue(func() *zap.Logger {
	return logging.OncePerSecond(caddy.Log().Named("http.intercom_webhook.events"))
})

// OnceStarted calls start when the config of ctx is started, or now if its start has begun.
func OnceStarted(ctx caddy.Context, start func()) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	if err := app.(*caddyevents.App).On("started", startHandler{start}); err != nil {
		start() // the app accepts no more handlers
	}
	return nil
}

// startHandler is a struct because Caddy encodes event handlers as JSON for its log.
type startHandler struct{ start func() }

// Handle calls start.
func (h startHandler) Handle(context.Context, caddy.Event) error {
	h.start()
	return nil
}

// Interface guard
var _ caddyevents.Handler = startHandler{}
