package jobdb

import (
	"context"
	"time"
)

// cancelAsked is the condition that a person has asked for the end of a job while it ran.
// River ends it then as cancelled when it would wait again, and so do we.
const cancelAsked = `metadata ->> '$.cancel_attempted_at' IS NOT NULL`

// released is what a release sets: the claim is no attempt.
const released = ` attempt = attempt - 1, attempted_by = json_remove(attempted_by, '$[#-1]'),
	finalized_at = CASE WHEN ` + cancelAsked + ` THEN datetime('now', 'subsec') END,
	state = CASE WHEN ` + cancelAsked + ` THEN 'cancelled'
		WHEN attempt <= 1 OR metadata ->> '$.age_from' = scheduled_at THEN 'available' ELSE 'retryable' END`

// readable leaves out rows that would break the statement. They are met when they are
// claimed or finished.
const readable = `(attempted_by IS NULL OR json_valid(attempted_by, 6)) AND json_valid(metadata, 6)`

// OwnRunning implements DB.
func (d *sqliteDB) OwnRunning(ctx context.Context) ([]Running, error) {
	rows, err := d.read.QueryContext(ctx, `SELECT id, coalesce(attempted_by ->> '$[#-1]', ''), `+cancelAsked+`
		FROM river_job WHERE state = 'running' AND `+readable)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var running []Running
	for rows.Next() {
		var r Running
		var by string
		if err := rows.Scan(&r.ID, &by, &r.CancelRequested); err != nil {
			return nil, err
		}
		instance, token := heldBy(by)
		if r.Token = token; instance == d.instance {
			running = append(running, r)
		}
	}
	return running, rows.Err()
}

// Beat implements DB. Nobody else has the file.
func (*sqliteDB) Beat(context.Context, Presence) (Fleet, error) {
	return Fleet{Exclusive: true, Now: time.Now()}, nil
}

// Rescue implements DB. Nobody else has the file, so what is running and not of this
// process was left by one that has ended.
func (d *sqliteDB) Rescue(ctx context.Context) (rescued int64, err error) {
	malformed, err := d.ids(ctx, `SELECT id FROM river_job WHERE state = 'running' AND NOT (`+readable+`)`)
	if err != nil {
		return 0, err
	}
	if _, err := d.writeEach(ctx, malformed, func(id int64) error { return d.setAside(id, errMalformed) }); err != nil {
		return 0, err
	}
	for n := int64(maxRows); n == maxRows; rescued += n {
		err := d.transaction(ctx, delivering, func() error {
			result, err := d.write.execResult(`UPDATE river_job SET`+released+` WHERE id IN (
				SELECT id FROM river_job WHERE state = 'running' AND `+readable+`
					AND substr(coalesce(attempted_by ->> '$[#-1]', ''), 1, length(?1)) <> ?1 LIMIT ?2)`, d.instance+"#", maxRows)
			if err == nil {
				n, err = result.RowsAffected()
			}
			return err
		})
		if err != nil {
			return rescued, err
		}
	}
	return rescued, nil
}
