// Package events emits events of this module through Caddy's app for events.
package events

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

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
	ctx     caddy.Context
	app     *caddyevents.App
	module  caddy.ModuleID
	started chan struct{} // closed when the config was started
}

// maxWaiting bounds how many events wait for slow handlers.
const maxWaiting = 1000

var (
	mu       sync.Mutex
	emitters []*Emitter // of configs that were started and not stopped, the latest last

	waiting     = make(chan event, maxWaiting)
	startHandle sync.Once
)

type event struct {
	emitter *Emitter
	name    string
	data    map[string]any
}

// New returns an Emitter for the module that ctx belongs to. It must be called while the
// module is provisioned.
func New(ctx caddy.Context) (*Emitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Emitter{ctx: ctx, app: app.(*caddyevents.App), started: make(chan struct{})}
	if module := ctx.Module(); module != nil {
		e.module = module.CaddyModule().ID
	}
	return e, OnceStarted(ctx, e.start)
}

func (e *Emitter) start() {
	mu.Lock()
	emitters = append(emitters, e)
	mu.Unlock()
	context.AfterFunc(e.ctx, e.stop)
	close(e.started)
}

func (e *Emitter) stop() {
	mu.Lock()
	defer mu.Unlock()
	emitters = slices.DeleteFunc(emitters, func(other *Emitter) bool { return other == e })
}

// current returns the emitter of the same module in the config that runs now; nil if there
// is none.
func (e *Emitter) current() *Emitter {
	mu.Lock()
	defer mu.Unlock()
	for _, other := range slices.Backward(emitters) {
		if other.module == e.module && other.ctx.Err() == nil {
			return other
		}
	}
	return nil
}

// Emit emits an event through the config that runs when the event is handled, or, if none
// runs yet, once this one is started. It calls data only if somebody may want the event, and
// returns at once: Caddy's handlers run synchronously, and a slow one must not hold up what
// has emitted. If too many events wait for slow handlers, Emit drops the event.
func (e *Emitter) Emit(name string, data func() map[string]any) {
	if e == nil {
		return
	}
	if current := e.current(); current != nil && !current.app.ShouldEmit(name) {
		return
	}
	startHandle.Do(func() { go handleAll() })
	select {
	case waiting <- event{e, name, data()}:
	default:
		floodLogger().Warn("event is dropped: the handlers of events are too slow", zap.String("event", name))
	}
}

// handleAll handles events in their order, as long as the process lives.
func handleAll() {
	for ev := range waiting {
		ev.handle()
	}
}

func (ev event) handle() {
	defer func() {
		if p := recover(); p != nil { // here nobody else would catch it
			caddy.Log().Named(loggerName).Error("a handler of events panicked", zap.String("event", ev.name),
				zap.String("panic", fmt.Sprintf("%T", p)), zap.ByteString("stack", debug.Stack()))
		}
	}()
	select {
	case <-ev.emitter.started:
	case <-ev.emitter.ctx.Done():
	}
	if current := ev.emitter.current(); current != nil {
		current.app.Emit(current.ctx, ev.name, ev.data)
	}
}

const loggerName = "http.intercom_webhook.events"

var floodLogger = sync.OnceValue(func() *zap.Logger { return logging.OncePerSecond(caddy.Log().Named(loggerName)) })

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
