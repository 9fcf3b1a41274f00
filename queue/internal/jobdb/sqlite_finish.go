package jobdb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"modernc.org/sqlite"
)

// Finish implements DB.
func (d *sqliteDB) Finish(ctx context.Context, outcomes []Outcome) (applied []int64, err error) {
	for batch := range slices.Chunk(outcomes, maxRows) {
		var ended []int64
		err := d.transaction(ctx, delivering, func() error {
			completed, others := splitCompleted(batch)
			done, err := d.complete(completed)
			if isMalformed(err) {
				others, done = batch, nil
			} else if err != nil {
				return err
			}
			ended = done
			for _, outcome := range others {
				had, err := d.finish(outcome)
				if isMalformed(err) {
					had, err = true, d.setAside(outcome.ID, err)
				}
				if err != nil {
					return err
				}
				if had {
					ended = append(ended, outcome.ID)
				}
			}
			return nil
		})
		if err != nil {
			return applied, err
		}
		applied = append(applied, ended...)
	}
	return applied, nil
}

// splitCompleted returns the outcomes of jobs that are just completed, and the others.
func splitCompleted(outcomes []Outcome) (completed, others []Outcome) {
	for _, o := range outcomes {
		if o.State == StateCompleted && o.Error == nil {
			completed = append(completed, o)
		} else {
			others = append(others, o)
		}
	}
	return completed, others
}

// complete completes jobs with one statement, which fails if one of the rows is malformed.
func (d *sqliteDB) complete(outcomes []Outcome) (ids []int64, err error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	held := make([][2]any, len(outcomes))
	for i, o := range outcomes {
		held[i] = [2]any{o.ID, d.token(o.Token)}
	}
	list, err := json.Marshal(held)
	if err != nil {
		return nil, err
	}
	rows, err := d.write.query(`UPDATE river_job SET state = 'completed', finalized_at = datetime('now', 'subsec')
		FROM json_each(?) AS held
		WHERE river_job.id = held.value ->> 0 AND +river_job.state = 'running' AND attempted_by ->> '$[#-1]' = held.value ->> 1
		RETURNING id`, string(list))
	if err != nil {
		return nil, err
	}
	return scanIDs(rows)
}

// whereHeld is the condition that a job is held by the claim whose token is ?2.
const whereHeld = ` WHERE id = ?1 AND state = 'running' AND attempted_by ->> '$[#-1]' = ?2`

// appendError appends ?3 to a job's errors, unless it is null.
const appendError = `errors = CASE WHEN ?3 IS NULL THEN errors ELSE json_insert(coalesce(errors, '[]'), '$[#]', json(?3)) END`

func (d *sqliteDB) finish(o Outcome) (applied bool, err error) {
	held := []any{o.ID, d.token(o.Token)}
	var failure any
	if o.Error != nil {
		failure = string(o.Error)
	}
	var result sql.Result
	switch {
	case o.State == StateAvailable:
		result, err = d.write.execResult(`UPDATE river_job SET`+released+whereHeld, held...)
	case o.State == StateRetryable:
		// attempted_at is no later than now, also if the clock was set back: see Reclock
		result, err = d.write.execResult(`UPDATE river_job SET state = CASE WHEN `+cancelAsked+` THEN 'cancelled' ELSE 'retryable' END,
			finalized_at = CASE WHEN `+cancelAsked+` THEN datetime('now', 'subsec') END, scheduled_at = datetime('now', 'subsec', ?4),
			attempted_at = min(attempted_at, datetime('now', 'subsec')), `+appendError+whereHeld,
			append(held, failure, offset(o.Delay))...)
	case !o.State.Unfinished():
		result, err = d.write.execResult(`UPDATE river_job SET state = ?4, finalized_at = datetime('now', 'subsec'), `+appendError+whereHeld,
			append(held, failure, string(o.State))...)
	default:
		err = fmt.Errorf("a claim cannot end as %s", o.State)
	}
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// setAside cancels a job whose row is malformed, so that it keeps no others.
func (d *sqliteDB) setAside(id int64, reason error) error {
	d.logger.Error("a row of the queue's database is malformed: the job is cancelled", zap.String("path", d.path), zap.Int64("job", id), zap.Error(reason))
	failure, err := json.Marshal([]map[string]any{{
		"at": time.Now().UTC(), "attempt": 1, "trace": "", "error": "the row is malformed: " + reason.Error(),
	}})
	if err != nil {
		return err
	}
	return d.write.exec(`UPDATE river_job SET state = 'cancelled', finalized_at = datetime('now', 'subsec'), errors = ?2,
		attempted_by = CASE WHEN json_valid(attempted_by, 6) THEN attempted_by END,
		metadata = CASE WHEN json_valid(metadata, 6) THEN metadata ELSE '{}' END,
		args = CASE WHEN json_valid(args, 6) THEN args ELSE json_object('malformed', hex(args)) END
		WHERE id = ?1`, id, string(failure))
}

var errMalformed = errors.New("malformed JSON")

// isMalformed reports whether a statement failed because of what is in a row.
func isMalformed(err error) bool {
	reply, ok := errors.AsType[*sqlite.Error](err)
	return ok && strings.Contains(reply.Error(), "malformed JSON")
}
