package queue

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap/exp/zapslog"

	"github.com/caddyserver/caddy/v2"
)

// newRiverLogger returns a logger with which River writes to Caddy's log.
func newRiverLogger() *slog.Logger { return slog.New(riverLog{}) }

// riverLog is used by several configs one after the other, so it gets the logger of the
// current config for each line. Lines at INFO become DEBUG, because River writes one for
// each job.
type riverLog struct{ attrs []slog.Attr }

const riverLogName = "http.intercom_webhook.queues.river"

func (l riverLog) handler() slog.Handler {
	return zapslog.NewHandler(caddy.Log().Core(), zapslog.WithName(riverLogName), zapslog.AddStacktraceAt(slog.Level(127)))
}

func caddyLevel(level slog.Level) slog.Level {
	if level == slog.LevelInfo {
		return slog.LevelDebug
	}
	return level
}

// Enabled implements slog.Handler.
func (l riverLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, caddyLevel(level))
}

// Handle implements slog.Handler.
func (l riverLog) Handle(ctx context.Context, record slog.Record) error {
	record.Level = caddyLevel(record.Level)
	record.AddAttrs(l.attrs...)
	return l.handler().Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l riverLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return riverLog{slices.Concat(l.attrs, attrs)}
}

// WithGroup implements slog.Handler. River uses no groups.
func (l riverLog) WithGroup(string) slog.Handler { return l }
