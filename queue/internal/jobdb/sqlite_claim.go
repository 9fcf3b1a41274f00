package jobdb

import (
	"context"
	"encoding/json"
	"slices"
	"time"
)

// maxAttemptedBy is how many claims attempted_by remembers, as in River.
const maxAttemptedBy = 100

// candidate is a job that could be claimed.
type candidate struct {
	id        int64
	size      int // of its args, in bytes
	priority  int
	workspace string
}

const (
	sqliteDue = `SELECT id, octet_length(args), priority, ` + sqliteWorkspace + ` FROM river_job
		WHERE state = 'retryable' AND queue = ? AND priority IN (1, 2, 3, 4) AND scheduled_at <= datetime('now', 'subsec') LIMIT ?`

	sqliteOldest = `SELECT id, octet_length(args), priority, ` + sqliteWorkspace + ` FROM river_job
		WHERE state = 'available' AND queue = ? ORDER BY priority, scheduled_at, id LIMIT ?`
)

// Claim implements DB.
func (d *sqliteDB) Claim(ctx context.Context, claim Claim) (jobs []Job, more bool, err error) {
	found, more, err := d.candidates(ctx, claim)
	if err != nil || len(found) == 0 {
		return nil, false, err
	}
	for batch := range slices.Chunk(found, maxRows) {
		var claimed []Job
		err := d.transaction(ctx, delivering, func() (err error) {
			claimed, err = d.claimAll(batch, claim)
			if isMalformed(err) {
				claimed, err = d.claimEach(batch, claim)
			}
			return err
		})
		if err != nil {
			// what was committed before is found by OwnRunning, as after a lost reply
			return nil, false, err
		}
		jobs = append(jobs, claimed...)
	}
	return jobs, more, nil
}

// candidates returns what may be claimed within the limits, half of it due and half of
// it fresh where there is enough of both.
func (d *sqliteDB) candidates(ctx context.Context, claim Claim) (found []candidate, more bool, err error) {
	due, err := d.list(ctx, claim, sqliteDue)
	if err != nil {
		return nil, false, err
	}
	oldest, err := d.list(ctx, claim, sqliteOldest)
	if err != nil {
		return nil, false, err
	}
	fresh, err := d.inTurns(ctx, claim, oldest)
	if err != nil {
		return nil, false, err
	}
	half := (claim.Limit + 1) / 2
	wantDue := min(len(due), max(half, claim.Limit-len(fresh)))
	wantFresh := min(len(fresh), claim.Limit-wantDue)
	size := 0
	for i, c := range slices.Concat(due[:wantDue], fresh[:wantFresh]) {
		if len(found) > 0 && size+c.size > claim.MaxBytes {
			return found, true, nil
		}
		size += c.size
		found = append(found, c)
		if i >= wantDue {
			d.turns.taken(claim.Queue, c.workspace)
		}
	}
	return found, len(due)+len(fresh) > len(found) || len(found) == claim.Limit, nil
}

// list returns as many candidates as the claim may have, without those that are excepted.
func (d *sqliteDB) list(ctx context.Context, claim Claim, query string) ([]candidate, error) {
	rows, err := d.read.QueryContext(ctx, query, claim.Queue, claim.Limit+len(claim.Except))
	if err != nil {
		return nil, err
	}
	found, err := sqliteCandidates(rows)
	found = slices.DeleteFunc(found, func(c candidate) bool { return slices.Contains(claim.Except, c.id) })
	return found[:min(len(found), claim.Limit)], err
}

// claimAll claims candidates with one statement, which fails if one of the rows is
// malformed. (The + keeps SQLite from looking for them by their state.) A job that was
// available after an attempt was retried by a person: its age starts anew, and an old wish
// to cancel it is over.
func (d *sqliteDB) claimAll(batch []candidate, claim Claim) ([]Job, error) {
	ids := make([]int64, len(batch))
	for i, c := range batch {
		ids[i] = c.id
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	rows, err := d.write.query(`UPDATE river_job SET state = 'running', attempt = attempt + 1, attempted_at = datetime('now', 'subsec'),
		attempted_by = json_insert(CASE WHEN json_type(attempted_by) IS NOT 'array' THEN '[]'
			WHEN json_array_length(attempted_by) >= ?3 THEN json_remove(attempted_by, '$[0]') ELSE attempted_by END, '$[#]', ?2),
		metadata = CASE WHEN state = 'available' AND (attempt > 0 OR scheduled_at <> created_at) AND metadata ->> '$.age_from' IS NOT scheduled_at
			THEN json_remove(json_set(metadata, '$.age_from', scheduled_at), '$.cancel_attempted_at') ELSE metadata END
		WHERE id IN (SELECT value FROM json_each(?1)) AND +state IN ('available', 'retryable')
		RETURNING id, CASE typeof(args) WHEN 'text' THEN args ELSE json(args) END, attempt,
			unixepoch('now', 'subsec') - coalesce(unixepoch(metadata ->> '$.age_from', 'subsec'), unixepoch(created_at, 'subsec'), unixepoch('now', 'subsec')), `+sqliteWorkspace,
		string(list), d.token(claim.Token), maxAttemptedBy)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	jobs := make([]Job, 0, len(batch))
	for rows.Next() {
		job := Job{Token: claim.Token, Queue: claim.Queue}
		var age float64
		if err := rows.Scan(&job.ID, &job.Args, &job.Attempt, &age, &job.Workspace); err != nil {
			return nil, err
		}
		job.Age = max(seconds(age), 0)
		jobs = append(jobs, job)
	}
	return jobs, rows.Err()
}

// claimEach claims candidates one by one, and sets aside those whose rows are malformed.
func (d *sqliteDB) claimEach(batch []candidate, claim Claim) (jobs []Job, err error) {
	for _, c := range batch {
		claimed, err := d.claimAll([]candidate{c}, claim)
		if isMalformed(err) {
			err = d.setAside(c.id, err)
		}
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, claimed...)
	}
	return jobs, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
