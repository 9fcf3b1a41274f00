package jobdb

import (
	"context"
	"encoding/json"
	"errors"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Args, tags, errors and the like are stored as JSON text: River's own rows have
// SQLite's binary JSON, and its statements read both.

// maxRows is how many rows a transaction changes at most, so that none keeps storing
// from the write lock for long.
const maxRows = 200

// everyState has the bits of all states that River knows: a job is a duplicate for as
// long as the row of the first one is there.
const everyState = 1<<8 - 1

// token returns a token as it is in the database.
func (d *sqliteDB) token(token Token) string { return holder(d.instance, token) }

// Store implements DB.
func (d *sqliteDB) Store(ctx context.Context, collect func() []*NewJob) ([]Stored, error) {
	if err := d.log.usable(); err != nil {
		return nil, err
	}
	var results []Stored
	err := d.transaction(ctx, storing, func() error {
		jobs := collect()
		results = make([]Stored, len(jobs))
		for i, job := range jobs {
			var err error
			if results[i], err = d.insertAll(job); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, d.log.sync()
}

// insertAll inserts a job, and those in its With if it is stored itself.
func (d *sqliteDB) insertAll(job *NewJob) (Stored, error) {
	stored, err := d.insert(job)
	if err != nil || stored.ID == 0 {
		return stored, err
	}
	for _, other := range job.With {
		result, err := d.insert(other)
		if err != nil {
			return Stored{}, err
		}
		stored.With = append(stored.With, result)
	}
	return stored, nil
}

// insert returns an error only if the whole transaction is lost.
func (d *sqliteDB) insert(job *NewJob) (Stored, error) {
	tags, err := json.Marshal(append([]string{}, job.Tags...))
	if err != nil {
		return Stored{}, err
	}
	var attempt int
	var uniqueStates, attemptedBy, uniqueKey any
	state := StateAvailable
	if job.Token != 0 {
		state, attempt, attemptedBy = StateRunning, 1, `["`+d.token(job.Token)+`"]`
	}
	if job.UniqueKey != nil {
		uniqueKey, uniqueStates = job.UniqueKey, everyState
	}
	inserted, err := d.write.execResult(`INSERT INTO river_job
		(args, attempt, attempted_at, attempted_by, created_at, kind, max_attempts, metadata, queue, scheduled_at, state, tags, unique_key, unique_states)
		VALUES (?1, ?2, CASE WHEN ?2 > 0 THEN datetime('now', 'subsec') END, ?3, datetime('now', 'subsec'), ?4, ?5, '{}', ?6, datetime('now', 'subsec'), ?7, ?8, ?9, ?10)
		ON CONFLICT DO NOTHING`,
		string(job.Args), attempt, attemptedBy, job.Kind, job.MaxAttempts, job.Queue, string(state), string(tags), uniqueKey, uniqueStates)
	if isConstraint(err) {
		return Stored{Err: err}, nil
	}
	if err != nil {
		return Stored{}, err
	}
	n, err := inserted.RowsAffected()
	if err != nil {
		return Stored{}, err
	}
	if n == 0 {
		return Stored{Duplicate: true}, nil
	}
	id, err := inserted.LastInsertId()
	return Stored{ID: id}, err
}

// isConstraint reports whether SQLite refused the values of a row.
func isConstraint(err error) bool {
	reply, ok := errors.AsType[*sqlite.Error](err)
	return ok && (reply.Code()&0xff == sqlite3.SQLITE_CONSTRAINT || reply.Code()&0xff == sqlite3.SQLITE_TOOBIG || reply.Code()&0xff == sqlite3.SQLITE_MISMATCH)
}
