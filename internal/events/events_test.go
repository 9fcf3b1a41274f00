package events

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// handlerFunc handles events of a test.
type handlerFunc func(caddy.Event)

func (f handlerFunc) Handle(_ context.Context, e caddy.Event) error {
	f(e)
	return nil
}

// MarshalJSON is needed because Caddy logs its handlers.
func (handlerFunc) MarshalJSON() ([]byte, error) { return []byte(`"test"`), nil }

// newEmitter returns an emitter of a config, and functions that start and stop the config.
func newEmitter(t *testing.T, name string, handle func(caddy.Event)) (e *Emitter, start, stop func()) {
	t.Helper()
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	t.Cleanup(cancel)
	if e, err = New(ctx); err != nil {
		t.Fatal(err)
	}
	if handle != nil {
		if err := e.app.On(name, handlerFunc(handle)); err != nil {
			t.Fatal(err)
		}
	}
	return e, func() { e.app.Emit(ctx, "started", nil) }, cancel
}

func want(t *testing.T, got <-chan string, text string) {
	t.Helper()
	select {
	case got := <-got:
		if got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s did not come", text)
	}
}

func data(value string) func() map[string]any {
	return func() map[string]any { return map[string]any{"value": value} }
}

func TestEventsGoThroughTheConfigThatRuns(t *testing.T) {
	got := make(chan string, 10)
	record := func(config string) func(caddy.Event) {
		return func(e caddy.Event) { got <- fmt.Sprint(config, " ", e.Data["value"]) }
	}
	first, start, stop := newEmitter(t, "e", record("first"))
	first.Emit("e", data("early"))
	select {
	case got := <-got:
		t.Errorf("got %s before the config was started", got)
	case <-time.After(50 * time.Millisecond):
	}
	start()
	want(t, got, "first early")

	second, startSecond, _ := newEmitter(t, "e", record("second"))
	first.Emit("e", data("a"))
	want(t, got, "first a")
	startSecond()
	first.Emit("e", data("b"))
	want(t, got, "second b")
	stop()
	first.Emit("e", data("c"))
	want(t, got, "second c")
	second.Emit("e", data("d"))
	want(t, got, "second d")

	failed, _, stopFailed := newEmitter(t, "e", record("failed")) // never starts
	stopFailed()
	failed.Emit("e", data("e"))
	want(t, got, "second e")
}

func TestEventsThatNobodyWantsCostNothing(t *testing.T) {
	e, start, _ := newEmitter(t, "wanted", func(caddy.Event) {})
	start()
	if e.app.ShouldEmit("unwanted") {
		t.Fatal("something wants all events")
	}
	e.Emit("unwanted", func() map[string]any {
		t.Error("the data was asked for")
		return nil
	})
	(*Emitter)(nil).Emit("wanted", nil)
}

func TestAHandlerThatPanicsEndsNothing(t *testing.T) {
	got := make(chan string, 1)
	e, start, _ := newEmitter(t, "e", func(e caddy.Event) {
		if e.Data["value"] == "bad" {
			panic("of a handler")
		}
		got <- fmt.Sprint(e.Data["value"])
	})
	start()
	e.Emit("e", data("bad"))
	e.Emit("e", data("good"))
	want(t, got, "good")
}

func TestASlowHandlerHoldsUpNothing(t *testing.T) {
	release, got := make(chan struct{}), make(chan string, 2*maxWaiting)
	e, start, _ := newEmitter(t, "e", func(e caddy.Event) {
		<-release
		got <- fmt.Sprint(e.Data["value"])
	})
	start()
	for i := range maxWaiting + 10 { // some are dropped
		e.Emit("e", data(fmt.Sprint(i)))
	}
	close(release)
	for i := range maxWaiting {
		want(t, got, fmt.Sprint(i))
	}
}
