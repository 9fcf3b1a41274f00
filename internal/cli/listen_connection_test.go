package cli

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A tunnel that has stopped leaves a connection that says nothing any more.
func TestListenNoticesABrokenConnection(t *testing.T) {
	hangs := make(chan struct{})
	var asked atomic.Int32
	caddy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/x-ndjson")
		io.WriteString(w, streamed(t, "a", "{}")+"\n\n\n")
		_ = http.NewResponseController(w).Flush()
		<-hangs
	}))
	defer caddy.Close()
	defer close(hangs)
	cmd := newListenCommand()
	var out, notices syncBuffer
	cmd.SetOut(&out)
	cmd.SetErr(&notices)
	if err := cmd.ParseFlags([]string{"--address", caddy.Listener.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	l, err := newListener(newRun(cmd))
	if err != nil {
		t.Fatal(err)
	}
	if l.silence > time.Minute || l.silence < 2*15*time.Second {
		t.Errorf("a break is noticed after %s", l.silence)
	}
	l.silence = 200 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	listen := func() { ended <- l.listen(ctx) }
	go listen()
	want := "-- " + errSilent.Error() + "; connecting again\n"
	for end := time.Now().Add(30 * time.Second); !strings.Contains(notices.String(), want) || asked.Load() < 2; {
		select {
		case err := <-ended: // on a slow machine, it may not even have connected in this time
			if !errors.Is(err, errSilent) {
				t.Fatal(err)
			}
			go listen()
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("%d requests; notices:\n%s", asked.Load(), notices.String())
		}
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, errSilent) {
		t.Error(err)
	}
}

func TestListenSaysThatItCannotConnectAgain(t *testing.T) {
	l := newListening(t, []string{streamed(t, "a", "{}") + "\n", "gone"})
	for end := time.Now().Add(30 * time.Second); !strings.Contains(l.notices.String(), "-- not connected: "); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("notices:\n%s", l.notices.String())
		}
	}
	l.end(t)
}
