package jobdb

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The kinds of jobs to claim. Each index scan begins where the first such job is, and ends
// at the limit.
const (
	postgresDue = `
		SELECT job.id, job.size, row_number() OVER () AS place, false AS fresh
		FROM unnest('{1,2,3,4}'::smallint[]) AS level(priority), LATERAL (
			SELECT id, pg_column_size(args) AS size FROM {s}river_job
			WHERE state = 'retryable' AND queue = $1 AND priority = level.priority AND scheduled_at <= now() AND id <> ALL ($2::bigint[])
			ORDER BY scheduled_at, id LIMIT {limit}
			{lock}
		) AS job
		LIMIT {limit}`

	postgresFresh = `
		SELECT job.id, job.size, row_number() OVER () AS place, true AS fresh
		FROM (
			SELECT id, pg_column_size(args) AS size FROM {s}river_job
			WHERE state = 'available' AND queue = $1 AND id <> ALL ($2::bigint[])
			ORDER BY priority, scheduled_at, id LIMIT {limit}
			{lock}
		) AS job`

	// What the turns leave of the limit, the oldest have: with one workspace that is all.
	postgresFreshInTurns = `
		SELECT id, size, place, true AS fresh FROM turns
		UNION ALL
		SELECT job.id, job.size, (SELECT count(*) FROM turns) + row_number() OVER (), true
		FROM (
			SELECT id, pg_column_size(args) AS size FROM {s}river_job
			WHERE state = 'available' AND queue = $1 AND id <> ALL ($2::bigint[]) AND id <> ALL (ARRAY(SELECT id FROM turns))
			ORDER BY priority, scheduled_at, id LIMIT {limit} - (SELECT count(*) FROM turns)
			{lock}
		) AS job`

	// The first kind has what the second one leaves of the limit, of which that takes no
	// more than half, then the second one has the rest. Both take turns until their stored
	// sizes are more than may be read.
	//
	// A job whose scheduled_at has changed while it was available was retried by a person.
	postgresClaim = `
		WITH RECURSIVE bound AS MATERIALIZED (
			SELECT $3::bigint - count(*) AS jobs FROM ({counted}) AS counted
		), {first}{second}candidates AS MATERIALIZED (
			SELECT id, fresh, row_number() OVER in_turns AS place, sum(size) OVER in_turns - size AS before
			FROM (SELECT *, 1 AS kind FROM first UNION ALL SELECT *, 2 FROM second) AS both_kinds
			WINDOW in_turns AS (ORDER BY place, kind)
		), claimed AS (
			UPDATE {s}river_job AS j SET
				state = 'running',
				attempt = least(j.attempt::int + 1, 32767),
				attempted_at = now(),
				attempted_by = CASE WHEN array_ndims(j.attempted_by) = 1
					THEN array_append(j.attempted_by[array_upper(j.attempted_by, 1) - 98:], $4::text)
					ELSE ARRAY[$4::text] END,
				metadata = CASE WHEN j.state = 'available' AND (j.attempt > 0 OR j.scheduled_at <> j.created_at)
						AND j.metadata ->> 'age_from' IS DISTINCT FROM {scheduled}
					THEN CASE WHEN jsonb_typeof(j.metadata) = 'object' THEN j.metadata - 'cancel_attempted_at' ELSE '{}' END
						|| jsonb_build_object('age_from', {scheduled})
					ELSE j.metadata END
			WHERE j.id = ANY (ARRAY(SELECT id FROM candidates WHERE place = 1 OR before < $5::bigint))
			RETURNING j.id, j.attempt, j.attempted_at, j.created_at, j.metadata ->> 'age_from' AS age_from, {workspace} AS workspace, j.args
		)
		SELECT id, attempt, attempted_at, created_at, age_from, workspace, fresh,
			(SELECT count(*) FROM first) = (SELECT jobs FROM bound), (SELECT count(*) FROM candidates), args::text
		FROM (
			SELECT claimed.*, candidates.place, candidates.fresh FROM claimed JOIN candidates USING (id) ORDER BY candidates.place OFFSET 0
		) AS in_turns`
)

// postgresClaims are the statements of a claim: without and with turns, and those in which
// either kind is the first.
var postgresClaims = [2][2]string{
	{postgresClaimSQL(postgresKindDue, postgresKindFresh), postgresClaimSQL(postgresKindFresh, postgresKindDue)},
	{postgresClaimSQL(postgresKindDue, postgresKindInTurns), postgresClaimSQL(postgresKindInTurns, postgresKindDue)},
}

// postgresKind is a kind of jobs to claim.
type postgresKind struct{ before, jobs, counted string }

var (
	postgresKindDue     = postgresKind{"", postgresDue, postgresDue}
	postgresKindFresh   = postgresKind{"", postgresFresh, postgresFresh}
	postgresKindInTurns = postgresKind{postgresTurns, postgresFreshInTurns, postgresFresh}
)

func postgresClaimSQL(first, second postgresKind) string {
	named := func(kind postgresKind, name, limit string) string {
		return strings.NewReplacer("{limit}", limit, "{lock}", "FOR UPDATE SKIP LOCKED").Replace(
			kind.before + name + " AS MATERIALIZED (" + kind.jobs + "\n\t\t), ")
	}
	return strings.NewReplacer(
		"{counted}", strings.NewReplacer("{limit}", "$3::bigint / 2", "{lock}", "").Replace(second.counted),
		"{first}", named(first, "first", "(SELECT jobs FROM bound)"),
		"{second}", named(second, "second", "($3::bigint - (SELECT count(*) FROM first))"),
	).Replace(postgresClaim)
}

// Claim implements DB.
func (d *postgresDB) Claim(ctx context.Context, claim Claim) (jobs []Job, more bool, err error) {
	if claim.Limit <= 0 {
		return nil, false, nil
	}
	except := claim.Except
	if except == nil {
		except = []int64{}
	}
	args := []any{claim.Queue, except, claim.Limit, holder(d.instance, claim.Token), claim.MaxBytes}
	inTurns := 0
	several, err := d.severalWorkspaces(ctx, claim.Queue)
	if err != nil {
		return nil, false, fmt.Errorf("looking for workspaces to claim: %w", err)
	}
	if several {
		inTurns, args = 1, append(args, d.turns.after(claim.Queue))
	}
	var unread []Outcome
	err = d.patientRows(ctx, func(rows pgx.Rows) error {
		jobs, unread, more, err = d.claimed(rows, claim)
		return err
	}, d.sql(postgresClaims[inTurns][rand.N(2)]), args...) //nolint:gosec // nobody gains by knowing which kind is the first
	if err != nil {
		return nil, false, fmt.Errorf("claiming: %w", err)
	}
	d.changed(int64(len(jobs) + len(unread)))
	if _, err := d.Finish(ctx, unread); err != nil {
		return nil, false, fmt.Errorf("releasing what is too large to be read now: %w", err)
	}
	return jobs, more, nil
}

// claimed reads jobs up to the claim's bytes. PostgreSQL knew only how large they
// are when compressed, so there may be more, which are to be released.
func (d *postgresDB) claimed(rows pgx.Rows, claim Claim) (jobs []Job, unread []Outcome, more bool, err error) {
	size := 0
	for rows.Next() {
		job := Job{Token: claim.Token, Queue: claim.Queue}
		var claimed, created pgtype.Timestamptz
		var ageFrom *string
		var fresh, filled bool
		var candidates int
		if err := rows.Scan(&job.ID, &job.Attempt, &claimed, &created, &ageFrom, &job.Workspace, &fresh, &filled, &candidates, nil); err != nil {
			return nil, nil, false, err
		}
		more = filled || candidates == claim.Limit || candidates > len(jobs)+len(unread)+1
		args := rows.RawValues()[9]
		if size += len(args); len(jobs) > 0 && (size > claim.MaxBytes || len(unread) > 0) {
			unread = append(unread, Outcome{ID: job.ID, Token: claim.Token, State: StateAvailable})
			continue
		}
		job.Args = bytes.Clone(args)
		job.Age = postgresAge(claimed, created, ageFrom)
		jobs = append(jobs, job)
		if fresh {
			d.turns.taken(claim.Queue, job.Workspace)
		}
	}
	return jobs, unread, more || len(unread) > 0, rows.Err()
}

// postgresAge is 0 if the clock was set back since.
func postgresAge(claimed, created pgtype.Timestamptz, ageFrom *string) time.Duration {
	from := created.Time
	if ageFrom != nil {
		if retried, err := time.Parse(time.RFC3339Nano, *ageFrom); err == nil {
			from = retried
		}
	}
	return max(claimed.Time.Sub(from), 0)
}

const postgresOwnRunning = `SELECT j.id, {holder}, {cancel asked} FROM {s}river_job AS j
	WHERE j.state = 'running' AND starts_with({holder}, $1)`

// OwnRunning implements DB.
func (d *postgresDB) OwnRunning(ctx context.Context) (own []Running, err error) {
	err = d.query(ctx, func(rows pgx.Rows) (err error) {
		own, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (job Running, err error) {
			var holder string
			err = row.Scan(&job.ID, &holder, &job.CancelRequested)
			_, job.Token = heldBy(holder)
			return job, err
		})
		return err
	}, d.sql(postgresOwnRunning), d.instance+"#")
	if err != nil {
		return nil, fmt.Errorf("reading what this instance has claimed: %w", err)
	}
	return own, nil
}
