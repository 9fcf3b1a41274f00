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

// newEmitter returns an emitter of a config that no other one replaces.
func newEmitter(t *testing.T, name string, handle func(caddy.Event)) *Emitter {
	t.Helper()
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	t.Cleanup(cancel)
	e, err := New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.app.On(name, handlerFunc(handle)); err != nil {
		t.Fatal(err)
	}
	return e
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

func TestEventsThatNobodyWantsCostNothing(t *testing.T) {
	e := newEmitter(t, "wanted", func(caddy.Event) {})
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
	e := newEmitter(t, "e", func(e caddy.Event) {
		if e.Data["value"] == "bad" {
			panic("of a handler")
		}
		got <- fmt.Sprint(e.Data["value"])
	})
	e.Emit("e", data("bad"))
	e.Emit("e", data("good"))
	want(t, got, "good")
}

func TestASlowHandlerHoldsUpNothing(t *testing.T) {
	held, release, got := make(chan struct{}, 1), make(chan struct{}), make(chan string, 2*cap(handling))
	e := newEmitter(t, "e", func(e caddy.Event) {
		select {
		case held <- struct{}{}:
		default:
		}
		<-release
		got <- fmt.Sprint(e.Data["value"])
	})
	e.Emit("e", data("0"))
	<-held
	before := dropped.Load()
	for i := range cap(handling) + 10 {
		e.Emit("e", data(fmt.Sprint(i+1)))
	}
	if n := dropped.Load() - before; n != 10 {
		t.Errorf("%d were dropped, want 10", n)
	}
	close(release)
	for i := range cap(handling) + 1 {
		want(t, got, fmt.Sprint(i))
	}
}
