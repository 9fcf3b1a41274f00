package jobdb

import "time"

// Filter selects jobs. A zero field selects all.
type Filter struct {
	IDs          []int64 // unless nil
	States       []State
	Queues       []string
	Kinds        []string
	Workspace    string    // a tag
	Notification string    // a tag
	Since, Until time.Time // stored at or after, and before
	Error        string    // text in the error of the last record, in upper or lower case
}

// Page says which part of the selected jobs to return, and what of them.
type Page struct {
	From   int64 // the id to begin with; 0: the first, or with Newest the last
	Limit  int
	Newest bool // from the newest to the oldest
	Args   bool // with Record.Args
	Errors bool // with all errors, not only the last one
}

// Record is a job as it is in the database. What is malformed in a row is left out.
type Record struct {
	ID          int64
	Queue       string
	Kind        string
	State       State
	Tags        []string
	Attempt     int
	MaxAttempts int

	// StoredAt is when the job was stored, and DueAt when it was or will be available.
	// The others are zero if the job was not attempted, or has not ended.
	StoredAt, DueAt, AttemptedAt, FinalizedAt time.Time

	Errors [][]byte // JSON objects, the oldest first
	Args   []byte   // nil unless Page.Args
}
