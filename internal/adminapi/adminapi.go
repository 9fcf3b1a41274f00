// Package adminapi has the JSON of the admin API below /intercom_webhook/ on Caddy's admin
// endpoint, which the module writes and the command line reads. Lists and progress are
// NDJSON: one object a line.
package adminapi

import (
	"net/http"
	"time"
	"unicode/utf8"
)

// The paths.
const (
	Prefix            = "/intercom_webhook/"
	LanesPath         = Prefix + "lanes"      // GET; POST <lane>/pause and <lane>/resume below it
	DeliveriesPath    = Prefix + "deliveries" // GET; POST retry, resend, drop and erase below it
	NotificationsPath = Prefix + "notifications"
	StreamPath        = NotificationsPath + "/stream"
	RoutePath         = Prefix + "route" // GET, with topic and workspace
	ReadyPath         = Prefix + "ready"
)

// Lane is a lane of a queue.
type Lane struct {
	Endpoint      string           `json:"endpoint"`
	Lane          string           `json:"lane"`
	Kind          string           `json:"kind"`                // route or copy; empty if no live config has it
	State         string           `json:"state"`               // active, paused, down, failing or orphaned
	DownSince     time.Time        `json:"down_since,omitzero"` // when the attempts of one that is down began to fail
	Error         string           `json:"error,omitempty"`     // the last one of a lane that is down
	Workers       int              `json:"workers"`             // of this instance; 0 if it does not work on the lane
	Deliveries    map[string]int64 `json:"deliveries"`
	OldestSeconds float64          `json:"oldest_seconds"` // of those that are neither delivered nor dead
	HeldBack      *HeldBack        `json:"held_back,omitempty"`
	DeadLetters   []DeadLetters    `json:"dead_letters,omitempty"`
}

// DeadLetters are the dead letters of a lane with one topic and one reason.
type DeadLetters struct {
	Topic  string    `json:"topic"`
	Reason string    `json:"reason"`
	Count  int64     `json:"count"`
	Oldest time.Time `json:"oldest"` // when the first of them became dead
	Newest time.Time `json:"newest"`
	Error  string    `json:"error"` // of the newest one
}

// HeldBack is what waits in an ordered lane for an earlier delivery about the same object.
type HeldBack struct {
	Objects       int64   `json:"objects"`
	OldestSeconds float64 `json:"oldest_seconds"`
	By            string  `json:"by"` // the notification that the oldest one waits for: its id or, without one, its number
}

// Delivery is a delivery in a list.
type Delivery struct {
	ID           int64     `json:"id"`
	Notification string    `json:"notification"` // Intercom's id
	Number       int64     `json:"number"`       // of the notification in the database
	Topic        string    `json:"topic"`
	Workspace    string    `json:"workspace"`
	Object       string    `json:"object,omitempty"` // what it is about: type and id, as in conversation:123
	Endpoint     string    `json:"endpoint"`
	Lane         string    `json:"lane"`
	State        string    `json:"state"`
	Reason       string    `json:"reason,omitempty"`
	Attempts     int       `json:"attempts"`
	StoredAt     time.Time `json:"stored_at"`
	DueAt        time.Time `json:"due_at,omitzero"`
	FinishedAt   time.Time `json:"finished_at,omitzero"`
	Upstream     string    `json:"upstream,omitempty"`
	Status       int       `json:"status,omitempty"`
	Seconds      float64   `json:"seconds,omitempty"`
	Error        string    `json:"error,omitempty"`
}

// Details are a delivery with everything that is known of it.
type Details struct {
	Delivery
	History []Attempt `json:"history"` // the attempts that failed, the oldest first
	Request *Request  `json:"request"`
}

// Attempt is a failed attempt.
type Attempt struct {
	At           time.Time `json:"at"`
	Instance     string    `json:"instance"`
	Upstream     string    `json:"upstream,omitempty"`
	Status       int       `json:"status,omitempty"`
	Seconds      float64   `json:"seconds"`
	Error        string    `json:"error"`
	Answer       string    `json:"answer,omitempty"`
	AnswerBase64 []byte    `json:"answer_base64,omitempty"` // in place of answer if it is not text
}

// Request is the request with which a notification came.
type Request struct {
	Method     string      `json:"method"`
	URI        string      `json:"uri"`
	Proto      string      `json:"proto"`
	Host       string      `json:"host"`
	RemoteAddr string      `json:"remote_addr"`
	ClientIP   string      `json:"client_ip,omitempty"` // the address that it was judged by; in the stream only
	ReceivedAt time.Time   `json:"received_at"`
	Header     http.Header `json:"header"`
	Body       *string     `json:"body,omitempty"`
	BodyBase64 []byte      `json:"body_base64,omitempty"` // in place of body if it is not text
}

// SetBody sets the body: as text if it is valid UTF-8, because JSON can have no other text, and
// as base64 otherwise.
func (r *Request) SetBody(body []byte) {
	if utf8.Valid(body) {
		r.Body = new(string(body))
	} else {
		r.BodyBase64 = body
	}
}

// BodyBytes returns the body as it came.
func (r *Request) BodyBytes() []byte {
	if r.Body != nil {
		return []byte(*r.Body)
	}
	return r.BodyBase64
}

// Progress is how far a change is.
type Progress struct {
	Done    int64  `json:"done"`
	Total   int64  `json:"total"`
	Skipped *int64 `json:"skipped,omitempty"` // at the end: those that had changed meanwhile
	Note    string `json:"note,omitempty"`
}

// Last is the last line of an answer that is not complete: a list has a cursor to go on
// with, and after an error there is one too, with the progress of a change.
type Last struct {
	Error  string `json:"error,omitempty"`
	Cursor string `json:"cursor,omitempty"`
	*Progress
}

// Event is a line of the stream: a verified notification, or how many lines were dropped.
type Event struct {
	At        time.Time `json:"at"`
	Kind      string    `json:"kind"`
	Topic     string    `json:"topic"`
	Workspace string    `json:"workspace"`
	ID        string    `json:"id"`
	Outcome   string    `json:"outcome"` // as in the metric notifications_total
	Lane      string    `json:"lane"`
	Status    int       `json:"status"`
	Seconds   float64   `json:"seconds"`
	Request   *Request  `json:"request,omitempty"`
}

// Dropped is a line of the stream in the place of lines that were lost.
type Dropped struct {
	Dropped int `json:"dropped"`
}

// Ready says whether a notification could be stored now.
type Ready struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
}

// Route says where a notification would go, and why it goes to no earlier route.
type Route struct {
	Endpoint string   `json:"endpoint,omitempty"` // of its queue
	Server   string   `json:"server,omitempty"`
	Lane     string   `json:"lane"` // empty if it fits no route, or is ignored
	Ignored  bool     `json:"ignored,omitempty"`
	Copies   []string `json:"copies"` // lanes of the copies that fit
	Passed   []Passed `json:"passed"` // the routes and copies that do not fit, in their order
}

// Passed is a route that a notification does not fit.
type Passed struct {
	Lane string `json:"lane"`
	Why  string `json:"why"`
}
