package cli

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A tunnel that has stopped leaves a connection that says nothing any more.
func TestListenNoticesABrokenConnection(t *testing.T) {
	hangs := make(chan struct{})
	asked := make(chan struct{}, 100)
	caddy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
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
	l.silence = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.listen(ctx) }()
	<-asked
	<-asked // again
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(notices.String(), "-- "+errSilent.Error()+"; connecting again\n") {
		t.Errorf("notices:\n%s", notices.String())
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
