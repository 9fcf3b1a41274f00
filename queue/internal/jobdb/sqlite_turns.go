package jobdb

import (
	"context"
	"database/sql"
)

// sqliteWorkspace is a job's workspace: its first tag. Jobs that River's own client has
// inserted, whose tags are SQLite's binary JSON, have none. It is a part of the index, so
// sqlite3 3.40 must know its functions, and no value of tags may make it fail.
const sqliteWorkspace = `coalesce(CAST(CASE WHEN json_valid(tags) THEN tags ->> '$[0]' END AS TEXT), '')`

// sqliteTurnsIndex finds the workspaces that have available jobs, and their jobs. It has
// only available jobs, so what is handed over when it is stored costs it nothing.
const sqliteTurnsIndex = `CREATE INDEX IF NOT EXISTS intercom_webhook_turns
	ON river_job (queue, priority, ` + sqliteWorkspace + `, scheduled_at) WHERE state = 'available'`

// sqliteWaiting is followed by further conditions.
const sqliteWaiting = ` FROM river_job INDEXED BY intercom_webhook_turns
	WHERE state = 'available' AND queue = ?1 AND priority = ?2 AND id NOT IN (SELECT value FROM json_each(?3))`

const (
	// sqliteWorkspaces lists the workspaces whose turn it is: those behind the last one, and
	// then those before it and itself. It looks at one job of each.
	sqliteWorkspaces = `WITH RECURSIVE behind (name) AS (
			SELECT (SELECT ` + sqliteWorkspace + sqliteWaiting + ` AND ` + sqliteWorkspace + ` > ?4 ORDER BY ` + sqliteWorkspace + ` LIMIT 1)
			UNION ALL
			SELECT (SELECT ` + sqliteWorkspace + sqliteWaiting + ` AND ` + sqliteWorkspace + ` > name ORDER BY ` + sqliteWorkspace + ` LIMIT 1)
			FROM behind WHERE name IS NOT NULL LIMIT ?5
		), before (name) AS (
			SELECT (SELECT ` + sqliteWorkspace + sqliteWaiting + ` ORDER BY ` + sqliteWorkspace + ` LIMIT 1)
			UNION ALL
			SELECT (SELECT ` + sqliteWorkspace + sqliteWaiting + ` AND ` + sqliteWorkspace + ` > name ORDER BY ` + sqliteWorkspace + ` LIMIT 1)
			FROM before WHERE name < ?4 LIMIT ?5
		)
		SELECT name FROM behind WHERE name IS NOT NULL UNION ALL SELECT name FROM before WHERE name <= ?4 LIMIT ?5`

	// sqliteShares lists the oldest jobs of each of some workspaces.
	sqliteShares = `SELECT job.id, octet_length(job.args), job.priority, turn.value
		FROM json_each(?4) AS turn CROSS JOIN river_job AS job ON job.id IN (
			SELECT id` + sqliteWaiting + ` AND ` + sqliteWorkspace + ` = turn.value ORDER BY scheduled_at, id LIMIT ?5
		)
		ORDER BY turn.key, job.scheduled_at, job.id`
)

// inTurns returns what to claim of available jobs, in the order in which workspaces take
// turns. Oldest are the oldest ones; if they are as many as the claim may have, there may be
// others. Only jobs of the best priority take turns, before all others.
func (d *sqliteDB) inTurns(ctx context.Context, claim Claim, oldest []candidate) ([]candidate, error) {
	if len(oldest) == 0 {
		return nil, nil
	}
	after := d.turns.after(claim.Queue)
	best := oldest[:1]
	for len(best) < len(oldest) && oldest[len(best)].priority == oldest[0].priority {
		best = oldest[:len(best)+1]
	}
	if len(oldest) == claim.Limit {
		shares, err := d.shares(ctx, claim, oldest[0].priority, after)
		if err != nil {
			return nil, err
		}
		if len(shares) > 0 {
			best = shares
		}
	}
	ordered := takeTurns(best, after)
	taken := make(map[int64]bool, len(ordered))
	for _, c := range ordered {
		taken[c.id] = true
	}
	for _, c := range oldest {
		if !taken[c.id] {
			ordered = append(ordered, c)
		}
	}
	return ordered, nil
}

// shares returns the oldest jobs of the workspaces whose turn it is. It returns none if
// there is only one workspace.
func (d *sqliteDB) shares(ctx context.Context, claim Claim, priority int, after string) ([]candidate, error) {
	except := jsonArray(append([]int64{}, claim.Except...))
	rows, err := d.read.QueryContext(ctx, sqliteWorkspaces, claim.Queue, priority, except, after, max(claim.Limit, 2))
	if err != nil {
		return nil, err
	}
	workspaces, err := sqliteTexts(rows)
	if err != nil || len(workspaces) < 2 {
		return nil, err
	}
	rows, err = d.read.QueryContext(ctx, sqliteShares, claim.Queue, priority, except, jsonArray(workspaces), share(claim.Limit, len(workspaces)))
	if err != nil {
		return nil, err
	}
	return sqliteCandidates(rows)
}

func sqliteTexts(rows *sql.Rows) (texts []string, err error) {
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, rows.Err()
}

func sqliteCandidates(rows *sql.Rows) (found []candidate, err error) {
	defer rows.Close()
	for rows.Next() {
		var c candidate
		if err := rows.Scan(&c.id, &c.size, &c.priority, &c.workspace); err != nil {
			return nil, err
		}
		found = append(found, c)
	}
	return found, rows.Err()
}
