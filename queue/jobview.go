package queue

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// jobSummary is a job in a list of the admin API.
type jobSummary struct {
	ID            int64       `json:"id"`
	Notification  string      `json:"notification"`
	Topic         string      `json:"topic"`
	Workspace     string      `json:"workspace"`
	Lane          string      `json:"lane"`
	Queue         string      `json:"queue"` // the name of the endpoint
	State         jobdb.State `json:"state"`
	Attempt       int         `json:"attempt"`
	MaxAttempts   int         `json:"max_attempts"`
	StoredAt      time.Time   `json:"stored_at,omitzero"`
	NextAttemptAt time.Time   `json:"next_attempt_at,omitzero"`
	FinishedAt    time.Time   `json:"finished_at,omitzero"`
	Reason        string      `json:"reason,omitempty"` // the last error
}

// jobDetails is a job with everything that is known of it.
type jobDetails struct {
	jobSummary
	To         string        `json:"to,omitempty"` // the lane that a person has chosen
	Attempts   []attemptView `json:"attempts"`     // those that failed
	Request    *requestView  `json:"request,omitempty"`
	Unreadable string        `json:"unreadable,omitempty"` // why there is no request
}

// attemptView is a failed attempt.
type attemptView struct {
	Attempt      int       `json:"attempt"`
	At           time.Time `json:"at,omitzero"`
	Instance     string    `json:"instance,omitempty"`
	Upstream     string    `json:"upstream,omitempty"`
	Status       int       `json:"status,omitempty"`
	Seconds      float64   `json:"seconds,omitempty"`
	Error        string    `json:"error"`
	Answer       string    `json:"answer,omitempty"`
	AnswerBase64 []byte    `json:"answer_base64,omitempty"` // in place of answer if it is not text
}

// requestView is the request with which a notification came.
type requestView struct {
	Method     string      `json:"method"`
	URI        string      `json:"uri"`
	Proto      string      `json:"proto"`
	Host       string      `json:"host"`
	RemoteAddr string      `json:"remote_addr"`
	ReceivedAt time.Time   `json:"received_at"`
	Header     http.Header `json:"header"`
	Body       string      `json:"body,omitempty"`
	BodyBase64 []byte      `json:"body_base64,omitempty"` // in place of body if it is not text
}

// summarize returns the summary of a job.
func summarize(record *jobdb.Record, l labels) jobSummary {
	endpoint, lane := splitRiverQueue(record.Queue)
	s := jobSummary{
		ID: record.ID, Notification: l.notification, Topic: l.topic, Workspace: l.workspace,
		Lane: lane, Queue: endpoint, State: record.State,
		Attempt: record.Attempt, MaxAttempts: record.MaxAttempts,
		StoredAt: record.StoredAt, FinishedAt: record.FinalizedAt,
	}
	if record.State == jobdb.StateRetryable {
		s.NextAttemptAt = record.DueAt
	}
	if n := len(record.Errors); n > 0 {
		s.Reason = viewAttempt(record.Errors[n-1]).Error
	}
	return s
}

// detail returns everything that is known of a job, whose record has all errors and the
// arguments.
func detail(record *jobdb.Record) jobDetails {
	note, err := decodeNotification(record.Args)
	l := labelsOf(record)
	if err == nil {
		l = note.labels()
	}
	details := jobDetails{jobSummary: summarize(record, l), Attempts: []attemptView{}}
	for _, stored := range record.Errors {
		details.Attempts = append(details.Attempts, viewAttempt(stored))
	}
	if err != nil {
		details.Unreadable = "the stored notification cannot be decoded: " + err.Error()
		return details
	}
	details.To, details.Request = note.To, viewRequest(note)
	return details
}

func viewAttempt(stored []byte) attemptView {
	var record attemptRecord
	if err := json.Unmarshal(stored, &record); err != nil {
		return attemptView{Error: "the stored record of this attempt cannot be decoded"}
	}
	view := attemptView{
		Attempt: record.Attempt, At: record.At, Instance: record.Instance, Upstream: record.Upstream,
		Status: record.Status, Seconds: record.Seconds, Error: record.Error,
	}
	view.Answer, view.AnswerBase64 = record.Answer.split()
	return view
}

func viewRequest(note *notification) *requestView {
	view := &requestView{
		Method: note.Request.Method, URI: string(note.Request.URI), Proto: note.Request.Proto,
		Host: string(note.Request.Host), RemoteAddr: note.Request.RemoteAddr,
		ReceivedAt: note.ReceivedAt, Header: note.Request.header(),
	}
	view.Body, view.BodyBase64 = note.Body.split()
	return view
}

// split returns the octets as text or, if they are not text, as bytes.
func (o octets) split() (text string, data []byte) {
	if o.isText() {
		return string(o), nil
	}
	return "", []byte(o)
}
