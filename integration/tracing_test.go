package integration

import (
	"context"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// memoryExporter has the spans of the tests that trace.
type memoryExporter struct{ *tracetest.InMemoryExporter }

// Shutdown keeps the spans: Caddy's provider ends with each config that was the last to trace.
func (memoryExporter) Shutdown(context.Context) error { return nil }

var exported = memoryExporter{tracetest.NewInMemoryExporter()}

func init() {
	autoexport.RegisterSpanExporter("memory", func(context.Context) (sdktrace.SpanExporter, error) { return exported, nil })
}

// tracingBackend fails the first attempt, and records the traceparent of each.
func tracingBackend(t *testing.T) *backend {
	return newBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Intercom-Attempt") == "1" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
}

func attributeOf(span tracetest.SpanStub, key string) string {
	for _, a := range span.Attributes {
		if a.Key == attribute.Key(key) {
			return a.Value.String()
		}
	}
	return ""
}

func TestAQueuedNotificationIsOneTrace(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "memory")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	for _, c := range []struct{ name, route string }{
		{"tracing in front", "route * as talk to "},
		{"tracing in the route too", "route * as talk {\ntracing {\nspan inner\n}\nreverse_proxy "},
	} {
		t.Run(c.name, func(t *testing.T) {
			exported.Reset()
			backend := tracingBackend(t)
			route := c.route + backend.address
			if strings.Contains(route, "{") {
				route += "\n}"
			}
			webhook := route + "\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\n}"
			g := start(t, setup{webhook: webhook, behind: "tracing {\nspan arrival\n}"})
			id := newID()
			message := signed(notification(topic, id))
			message.header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			message.header.Set("Tracestate", "vendor=value")
			message.header.Set("Baggage", "userId=alice")
			g.expect(200, message)
			within(t, longPatience, "two attempts", func() bool { return len(backend.all()) == 2 })
			var spans tracetest.SpanStubs
			inner := strings.Contains(c.route, "inner")
			all := 3 // the arrival and two attempts
			if inner {
				all = 5
			}
			within(t, longPatience, "all spans", func() bool {
				spans = exported.GetSpans()
				return len(spans) >= all
			})

			arrival := spans[slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return s.Name == "arrival" })]
			if got := arrival.SpanContext.TraceID().String(); got != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("the arrival is in the trace %s", got)
			}
			attempts := 0
			for _, span := range spans {
				if span.SpanContext.TraceID() != arrival.SpanContext.TraceID() {
					t.Errorf("%s is in another trace", span.Name)
				}
				if span.Name != "deliver talk" {
					continue
				}
				attempts++
				if span.Parent.SpanID() != arrival.SpanContext.SpanID() {
					t.Error("the parent of an attempt is not the arrival")
				}
				for key, want := range map[string]string{
					"intercom_webhook.lane": "talk", "intercom_webhook.topic": topic, "intercom_webhook.id": id,
					"intercom_webhook.app_id": "tulip4", "intercom_webhook.upstream": backend.address,
				} {
					if got := attributeOf(span, key); got != want {
						t.Errorf("%s is %q, want %q", key, got, want)
					}
				}
				failed := attributeOf(span, "intercom_webhook.attempt") == "1"
				wantStatus, wantText, wantCode := codes.Unset, "", "200"
				if failed {
					wantStatus, wantText, wantCode = codes.Error, "backend answered 500", "500"
				}
				if span.Status.Code != wantStatus || span.Status.Description != wantText || attributeOf(span, "http.response.status_code") != wantCode {
					t.Errorf("attempt %s: %+v, status %s", attributeOf(span, "intercom_webhook.attempt"), span.Status, attributeOf(span, "http.response.status_code"))
				}
			}
			if attempts != 2 {
				t.Errorf("%d spans of attempts, want 2", attempts)
			}
			want := "deliver talk"
			if inner {
				want = "inner"
			}
			for _, got := range backend.all() {
				parent := strings.Split(got.header.Get("Traceparent"), "-")
				i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool {
					return len(parent) == 4 && s.SpanContext.SpanID().String() == parent[2]
				})
				if i < 0 || spans[i].Name != want {
					t.Errorf("the backend's parent is %q, want a span named %s", parent, want)
				}
				if got.header.Get("Tracestate") != "vendor=value" || got.header.Get("Baggage") != "userId=alice" {
					t.Errorf("the backend got %v", got.header)
				}
			}
		})
	}
}

// Without the directive, nothing is added to what Intercom has sent, even if the process has
// traced before.
func TestWithoutTracingNothingIsTraced(t *testing.T) {
	exported.Reset()
	backend := tracingBackend(t)
	g := start(t, setup{webhook: "route * as talk to " + backend.address + "\nqueue {\npath " + filepath.Join(t.TempDir(), "queue.db") + "\n}"})
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traced := signed(notification(topic, newID()))
	traced.header.Set("Traceparent", traceparent)
	g.expect(200, traced)
	g.expect(200, signed(notification(topic, newID())))
	within(t, longPatience, "all attempts", func() bool { return len(backend.all()) == 4 })
	for _, got := range backend.all() {
		if value := got.header.Get("Traceparent"); value != "" && value != traceparent {
			t.Errorf("the backend got the traceparent %q", value)
		}
	}
	if spans := exported.GetSpans(); len(spans) != 0 {
		t.Errorf("%d spans were exported", len(spans))
	}
}
