package worker

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
)

// tracing makes a span of each attempt to deliver a notification that came through Caddy's
// tracing directive. The directive has put the trace into the headers of the request, so it
// is stored with the notification. Without the directive, tracing does nothing.
type tracing struct {
	// provider is that of the last span that a notification came with, because Caddy's own
	// is private. It is nil after a restart until a notification comes; attempts before have
	// no span, but the backend still gets the trace. Once Caddy has shut the provider down,
	// its spans do nothing.
	provider atomic.Pointer[trace.TracerProvider]
}

const tracerName = "github.com/caddy-intercom/caddy-intercom-webhook/queue"

// propagators are those of Caddy's tracing directive.
var propagators = sync.OnceValue(func() propagation.TextMapPropagator { return autoprop.NewTextMapPropagator() })

// arrived takes over the tracer provider of the request's span, if it has one.
func (t *tracing) arrived(ctx context.Context) {
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		provider := span.TracerProvider()
		t.provider.Store(&provider)
	}
}

// start starts the span of an attempt to deliver a stored request, as a child of the span of
// its arrival. The backend gets it as its parent. A span that is not ended is not exported.
func (t *tracing) start(r *http.Request) (*http.Request, trace.Span) {
	none := trace.SpanFromContext(context.Background())
	provider := t.provider.Load()
	if provider == nil {
		return r, none
	}
	header := propagation.HeaderCarrier(r.Header)
	ctx := propagators().Extract(r.Context(), header)
	if !trace.SpanContextFromContext(ctx).IsValid() { // did not come through the directive
		return r, none
	}
	ctx, span := (*provider).Tracer(tracerName).Start(ctx, "deliver", trace.WithSpanKind(trace.SpanKindClient))
	propagators().Inject(ctx, header)
	return r.WithContext(ctx), span
}

// endSpan ends the span of an attempt.
func endSpan(span trace.Span, d *delivery, result intercomwebhook.Delivery) {
	if !span.IsRecording() {
		return
	}
	label := Label(d.lane.Lane)
	span.SetName("deliver " + label)
	span.SetAttributes(attribute.String("intercom_webhook.lane", label), attribute.Int("intercom_webhook.attempt", d.attempts+1))
	for name, value := range map[string]string{
		"intercom_webhook.id": d.note.NotificationID, "intercom_webhook.topic": d.note.Topic,
		"intercom_webhook.app_id": d.note.Workspace, "intercom_webhook.upstream": result.Upstream,
	} {
		if value != "" {
			span.SetAttributes(attribute.String(name, value))
		}
	}
	if result.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", result.Status))
	}
	if result.Err != nil {
		span.SetStatus(codes.Error, result.Err.Error())
	}
	span.End()
}
