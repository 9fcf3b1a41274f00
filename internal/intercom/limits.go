package intercom

import "time"

// Source: https://developers.intercom.com/docs/webhooks/webhook-notifications
const (
	// PriorityTimeout is how long an answer may take before Intercom gives the endpoint
	// a lower priority.
	PriorityTimeout = 500 * time.Millisecond

	// AnswerTimeout is how long Intercom waits for an answer.
	AnswerTimeout = 5 * time.Second

	// MaxErrors is the number of error answers within 15 minutes, without a good one
	// between them, at which Intercom pauses all notifications.
	MaxErrors = 1000
)

// Accepts reports whether Intercom counts an answer with this status as good.
func Accepts(status int) bool { return status >= 200 && status <= 299 }
