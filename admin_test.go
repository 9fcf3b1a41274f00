package intercomwebhook

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/stream"
)

// newAdmin starts an admin endpoint that has only this module. Like Caddy's, it bounds the
// time for reading requests.
func newAdmin(t *testing.T) (server *httptest.Server, endConfig context.CancelFunc) {
	t.Helper()
	ctx, endConfig := context.WithCancel(t.Context())
	mux := http.NewServeMux()
	for _, route := range (&adminAPI{ctx: ctx}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if apiErr, ok := err.(caddy.APIError); ok { //nolint:errorlint // as Caddy does
				w.WriteHeader(apiErr.HTTPStatus)
				fmt.Fprint(w, apiErr.Error())
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	// the queue's paths are more specific, and have a place beside those of this module
	mux.HandleFunc("/intercom_webhook/lanes", http.NotFound)
	mux.HandleFunc("/intercom_webhook/lanes/", http.NotFound)
	server = httptest.NewUnstartedServer(mux)
	server.Config.ReadTimeout = 200 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	return server, endConfig
}

func TestAdminAnswers(t *testing.T) {
	server, _ := newAdmin(t)
	for _, tc := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/intercom_webhook/ready", 503, `{"ready":false,"reason":"no config runs yet"}`},
		{"GET", "/intercom_webhook/route?topic=a", 503, "no config runs yet"},
		{"GET", "/intercom_webhook/route?topic=a&lane=b", 400, `unknown parameter "lane"`},
		{"GET", "/intercom_webhook/route", 400, `topic "" is not a dotted name`},
		{"POST", "/intercom_webhook/ready", 405, "/intercom_webhook/ready takes only GET"},
		{"GET", "/intercom_webhook/", 404, "there is no /intercom_webhook: this Caddy has /intercom_webhook/notifications/stream, /intercom_webhook/route and /intercom_webhook/ready"},
		{"GET", "/intercom_webhook/redy", 404, "did you mean /intercom_webhook/ready?"},
		{"GET", "/intercom_webhook/deliveries/7", 404, "this Caddy has no queue"},
		{"GET", "/intercom_webhook/notifications/7", 404, "this Caddy has no queue"},
		{"DELETE", "/intercom_webhook/notifications/stream", 405, "takes only GET"},
		{"GET", "/intercom_webhook/notifications/stream?topic=a*", 400, `topic pattern "a*": a * must be a whole segment`},
		{"GET", "/intercom_webhook/notifications/stream?topics=a", 400, `unknown parameter "topics": a stream has topic, workspace and request; did you mean topic?`},
		{"GET", "/intercom_webhook/notifications/stream?workspace=", 400, "workspace is empty"},
		{"GET", "/intercom_webhook/notifications/stream?request=maybe", 400, `request "maybe" is neither true nor false`},
	} {
		r, err := http.NewRequest(tc.method, server.URL+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
			t.Errorf("%s %s: got %d %s", tc.method, tc.path, response.StatusCode, body)
		}
	}
}

// openStream opens a stream of an admin endpoint, and waits until it gets what is published.
func openStream(t *testing.T, server *httptest.Server, query string) *http.Response {
	t.Helper()
	response, err := http.Get(server.URL + "/intercom_webhook/notifications/stream" + query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("got %d %v", response.StatusCode, response.Header)
	}
	return response
}

func TestAStreamOutlivesTheReadTimeout(t *testing.T) {
	server, _ := newAdmin(t)
	lines := bufio.NewScanner(openStream(t, server, "?topic=admin.test").Body)
	time.Sleep(3 * server.Config.ReadTimeout)
	live.Publish(&stream.Event{Event: adminapi.Event{Topic: "other"}})
	live.Publish(&stream.Event{Event: adminapi.Event{Topic: "admin.test", Kind: kindNotification}, Request: new(stream.Request)})
	want := `{"at":"0001-01-01T00:00:00Z","kind":"notification","topic":"admin.test","workspace":"","id":"","outcome":"","lane":"","status":0,"seconds":0}`
	if !lines.Scan() || lines.Text() != want {
		t.Errorf("error %v, got %q", lines.Err(), lines.Text())
	}
}

// A reload of Caddy shuts the admin endpoint down, and waits 10 s for its requests.
func TestAStreamEndsWithItsConfig(t *testing.T) {
	server, endConfig := newAdmin(t)
	reading := openStream(t, server, "")
	openStream(t, server, "?request=true") // is not read, so that its handler waits for it
	for range 4000 {
		live.Publish(&stream.Event{Event: adminapi.Event{Topic: strings.Repeat("x", 4<<10)}, Request: new(stream.Request)})
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, reading.Body)
		ended <- err
	}()
	endConfig()
	if err := server.Config.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	if live.Listened() {
		t.Error("a stream is still open")
	}
}

func TestAStreamIsClosedWhenItsReaderHangsUp(t *testing.T) {
	server, _ := newAdmin(t)
	response := openStream(t, server, "")
	response.Body.Close()
	for end := time.Now().Add(30 * time.Second); live.Listened(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the stream is still open")
		}
	}
}
