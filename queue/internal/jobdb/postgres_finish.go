package jobdb

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

const (
	postgresComplete = `
		UPDATE {s}river_job AS j SET state = 'completed', finalized_at = now()
		FROM unnest($1::bigint[], $2::text[]) AS outcome(id, holder)
		WHERE j.id = outcome.id AND j.state = 'running' AND {holder} = outcome.holder
		RETURNING j.id`

	postgresRelinquish = `
		UPDATE {s}river_job AS j SET {release}
		FROM unnest($1::bigint[], $2::text[]) AS outcome(id, holder)
		WHERE j.id = outcome.id AND j.state = 'running' AND {holder} = outcome.holder
		RETURNING j.id`

	postgresEnd = `
		UPDATE {s}river_job AS j SET
			state = CASE WHEN outcome.state = 'retryable' AND {cancel asked} THEN 'cancelled' ELSE outcome.state END::{s}river_job_state,
			scheduled_at = CASE WHEN outcome.state = 'retryable' THEN now() + outcome.delay * interval '1 microsecond' ELSE j.scheduled_at END,
			attempted_at = least(j.attempted_at, now()), -- also if the clock was set back: see Reclock
			finalized_at = CASE WHEN outcome.state <> 'retryable' OR {cancel asked} THEN now() END,
			errors = CASE WHEN outcome.error IS NULL THEN j.errors ELSE array_append(j.errors, outcome.error) END
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[]) AS outcome(id, holder, state, delay, error)
		WHERE j.id = outcome.id AND j.state = 'running' AND {holder} = outcome.holder
		RETURNING j.id`

	postgresSetAside = `
		UPDATE {s}river_job AS j SET
			state = 'cancelled',
			finalized_at = now(),
			errors = ARRAY[jsonb_build_object('at', now(), 'attempt', j.attempt, 'error', $3::text, 'trace', '')]
		WHERE j.id = $1::bigint AND j.state = 'running' AND {holder} = $2::text
		RETURNING j.id`
)

// postgresUnwritable stands in the place of an error that PostgreSQL refuses.
var postgresUnwritable = []byte(`{"at": "1970-01-01T00:00:00Z", "attempt": 0, "error": "the error of this attempt could not be stored", "trace": ""}`)

// Finish implements DB. The outcomes of a transaction are written in the order of the ids, so
// that no two transactions wait for each other.
func (d *postgresDB) Finish(ctx context.Context, outcomes []Outcome) (applied []int64, err error) {
	var completed, released, others []Outcome
	for _, outcome := range outcomes {
		switch {
		case outcome.State == StateAvailable:
			released = append(released, outcome)
		case outcome.State == StateCompleted && outcome.Error == nil:
			completed = append(completed, outcome)
		default:
			outcome.Error = bytes.ReplaceAll(outcome.Error, []byte(`\u0000`), []byte(`\ufffd`)) // which jsonb cannot keep
			others = append(others, outcome)
		}
	}
	for _, step := range []struct {
		outcomes []Outcome
		write    func(context.Context, []Outcome) ([]int64, error)
	}{
		{completed, d.writer(postgresComplete)},
		{released, d.writer(postgresRelinquish)},
		{others, d.end},
	} {
		slices.SortFunc(step.outcomes, func(a, b Outcome) int { return cmp.Compare(a.ID, b.ID) })
		for batch := range slices.Chunk(step.outcomes, maxRows) {
			ids, err := d.finish(ctx, batch, step.write)
			if err != nil {
				return applied, fmt.Errorf("finishing: %w", err)
			}
			d.changed(int64(len(ids)))
			applied = append(applied, ids...)
		}
	}
	return applied, nil
}

// finish writes outcomes. If the server refuses them, it writes each half of them, so
// that in the end only the jobs are set aside that cannot be finished alone.
func (d *postgresDB) finish(ctx context.Context, outcomes []Outcome, write func(context.Context, []Outcome) ([]int64, error)) ([]int64, error) {
	if len(outcomes) == 0 {
		return nil, nil
	}
	applied, err := write(ctx, outcomes)
	if !postgresRefused(err) {
		return applied, err
	}
	if len(outcomes) == 1 {
		return d.finishMalformed(ctx, outcomes[0], write, err)
	}
	half := len(outcomes) / 2
	applied, err = d.finish(ctx, outcomes[:half], write)
	if err != nil {
		return nil, err
	}
	rest, err := d.finish(ctx, outcomes[half:], write)
	return append(applied, rest...), err
}

// finishMalformed finishes one job that cannot be finished as it is: because of the
// outcome's error, which is then replaced, or because of what is in its row.
func (d *postgresDB) finishMalformed(ctx context.Context, outcome Outcome, write func(context.Context, []Outcome) ([]int64, error), cause error) ([]int64, error) {
	if outcome.Error != nil {
		outcome.Error = postgresUnwritable
		if applied, err := write(ctx, []Outcome{outcome}); !postgresRefused(err) {
			return applied, err
		}
	}
	applied, err := d.ids(ctx, postgresSetAside, outcome.ID, holder(d.instance, outcome.Token),
		fmt.Sprintf("the job's row is malformed, so that it could not be finished as %s (SQLSTATE %s)", outcome.State, postgresCode(cause)))
	if len(applied) > 0 {
		d.logger.Error("a job was set aside as cancelled, because its row is malformed", zap.Int64("job", outcome.ID),
			zap.String("wanted_state", string(outcome.State)), zap.String("sqlstate", postgresCode(cause)))
	}
	return applied, err
}

// writer runs a statement that needs to know of outcomes only which claims they end.
func (d *postgresDB) writer(statement string) func(context.Context, []Outcome) ([]int64, error) {
	return func(ctx context.Context, outcomes []Outcome) ([]int64, error) {
		ids, holders := d.claims(outcomes)
		return d.ids(ctx, statement, ids, holders)
	}
}

func (d *postgresDB) claims(outcomes []Outcome) (ids []int64, holders []string) {
	ids, holders = make([]int64, len(outcomes)), make([]string, len(outcomes))
	for i, outcome := range outcomes {
		ids[i], holders[i] = outcome.ID, holder(d.instance, outcome.Token)
	}
	return ids, holders
}

var errPostgresState = errors.New("a claim cannot end in this state")

// end writes outcomes that end an attempt.
func (d *postgresDB) end(ctx context.Context, outcomes []Outcome) ([]int64, error) {
	ids, holders := d.claims(outcomes)
	states, delays, errs := make([]string, len(outcomes)), make([]int64, len(outcomes)), make([][]byte, len(outcomes))
	for i, outcome := range outcomes {
		if outcome.State != StateRetryable && outcome.State.Unfinished() {
			return nil, fmt.Errorf("%w: %s", errPostgresState, outcome.State)
		}
		states[i], delays[i], errs[i] = string(outcome.State), outcome.Delay.Microseconds(), outcome.Error
	}
	return d.ids(ctx, postgresEnd, ids, holders, states, delays, postgresJSON{errs})
}

// ids runs a statement that returns ids.
func (d *postgresDB) ids(ctx context.Context, statement string, args ...any) (ids []int64, err error) {
	err = d.patientRows(ctx, func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	}, d.sql(statement), args...)
	return ids, err
}
