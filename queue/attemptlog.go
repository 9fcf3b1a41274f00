package queue

import (
	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/logging"
)

// logSuccess logs that the notification was delivered: at INFO if an earlier attempt has
// failed, so that each failure in the log has its end there too, or else at DEBUG.
func (a *attempt) logSuccess() {
	level := zap.InfoLevel
	if a.job.attempt == 1 {
		level = zap.DebugLevel
	}
	if c := a.attachment.logger.Check(level, logging.Delivered); c != nil {
		c.Write(a.logFields()...)
	}
}

// logFailure logs a failed attempt. It does so at INFO: the notification is kept, and what
// an operator must know about a lane or a dead letter is a warning of its own.
func (a *attempt) logFailure(more ...zap.Field) {
	if c := a.attachment.logger.Check(zap.InfoLevel, logging.NotDelivered); c != nil {
		c.Write(append(a.logFields(), more...)...)
	}
}

func (a *attempt) logFields() []zap.Field {
	entry := logging.Attempt{
		Lane: a.job.queue, Number: a.job.attempt,
		Upstream: a.delivery.Upstream, Status: a.delivery.Status, Duration: a.took, Err: a.delivery.Err,
	}
	if note := a.job.note; note != nil {
		entry.ID, entry.Topic, entry.AppID = note.ID, note.Topic, note.AppID
	}
	return []zap.Field{zap.Inline(entry), zap.Int64("job", a.job.id)}
}
