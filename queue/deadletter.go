package queue

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/events"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// deadLetter ends the attempts to deliver a job. The job is kept, and a person can retry it.
func (a *attempt) deadLetter(state jobdb.State, result string) jobdb.Outcome {
	topic := intercom.OtherTopics
	if a.job.note != nil {
		topic = intercom.Label(a.job.note.Topic)
	}
	a.count(result)
	deadLettersTotal.WithLabelValues(a.job.queue, topic).Inc()
	a.logFailure()
	a.lane.deadLetters.warn(a)
	a.attachment.events.Emit(events.DeadLetter, func() map[string]any {
		data := map[string]any{
			"lane": a.job.queue, "job": a.job.id, "attempt": a.job.attempt, "result": result,
			"upstream": a.delivery.Upstream, "status": a.delivery.Status, "error": a.delivery.Err.Error(),
			"id": "", "topic": "", "app_id": "",
		}
		if note := a.job.note; note != nil {
			data["id"], data["topic"], data["app_id"] = note.ID, note.Topic, note.AppID
		}
		return data
	})
	return jobdb.Outcome{State: state, Error: a.record()}
}

// deadLetterLog logs the dead letters of a lane, at most one a second. Each line says how many
// were left out before it. The last one of a burst is always logged.
type deadLetterLog struct {
	mu      sync.Mutex
	waiting bool     // until a second has passed since the last line
	last    *attempt // the latest one that was left out; nil if none was
	leftOut int      // including last
}

const deadLetterInterval = time.Second

func (l *deadLetterLog) warn(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		l.last = a
		l.leftOut++
		return
	}
	l.write(a, 0)
}

// catchUp logs the latest dead letter that was left out, if there is one.
func (l *deadLetterLog) catchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	if l.last != nil {
		l.write(l.last, l.leftOut-1)
	}
}

func (l *deadLetterLog) write(a *attempt, leftOut int) {
	l.waiting, l.last, l.leftOut = true, nil, 0
	time.AfterFunc(deadLetterInterval, l.catchUp)
	logger := a.attachment.logger
	if current := a.dispatcher.attachmentFor(a.job.queue); current != nil {
		logger = current.logger // a's config may have ended
	}
	fields := a.logFields()
	if leftOut > 0 {
		fields = append(fields, zap.Int("left_out", leftOut))
	}
	logger.Warn("notification is a dead letter: it is kept, and can be retried", fields...)
}
