package jobdb

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// postgresBeatTimeout bounds a heartbeat, so that one that hangs is known to be late.
	postgresBeatTimeout = 5 * time.Second

	// postgresBeatGap is how long after the one before a heartbeat is on time. Whoever
	// had a longer gap may have been away together with all others.
	postgresBeatGap = 10 * time.Second
)

// postgresClock is the clock of the watch, so that tests can set it forward.
var postgresClock = time.Now

// postgresWatch judges which instances are gone, by what this process sees and by its
// own monotonic clock: the database's clock may step.
type postgresWatch struct {
	mu       sync.Mutex
	lastBeat time.Time
	onTime   time.Time // since when each heartbeat of this process was on time
	seen     map[string]postgresSighting
}

// postgresSighting is the last heartbeat of an instance, "" if it has no row.
type postgresSighting struct {
	heartbeat string
	since     time.Time // this process has seen it
}

// beat notes a heartbeat of this process.
func (w *postgresWatch) beat(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lastBeat.IsZero() || now.Sub(w.lastBeat) >= postgresBeatGap {
		w.onTime = now
	}
	w.lastBeat = now
}

// miss notes that a heartbeat of this process failed. The others may have been unable to
// beat, too, so each has the whole time to do so again.
func (w *postgresWatch) miss() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastBeat = time.Time{}
}

// see notes the heartbeats of all other instances, and forgets those that are not among
// them.
func (w *postgresWatch) see(now time.Time, heartbeats map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[string]postgresSighting, len(heartbeats))
	for instance, heartbeat := range heartbeats {
		sighting, known := w.seen[instance]
		if !known || sighting.heartbeat != heartbeat {
			sighting = postgresSighting{heartbeat, now}
		}
		seen[instance] = sighting
	}
	w.seen = seen
}

// gone returns the last heartbeats of the instances that are gone.
func (w *postgresWatch) gone(now time.Time) map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := make(map[string]string)
	if w.lastBeat.IsZero() || now.Sub(w.lastBeat) >= postgresBeatGap || now.Sub(w.onTime) < GoneAfter {
		return gone
	}
	for instance, sighting := range w.seen {
		if now.Sub(sighting.since) >= GoneAfter {
			gone[instance] = sighting.heartbeat
		}
	}
	return gone
}

const (
	postgresBeat = `
		WITH own AS (
			INSERT INTO {instances} (id, updated_at, queues, configs) VALUES ($1::text, now(), $2::text[], $3::jsonb)
			ON CONFLICT (id) DO UPDATE SET updated_at = now(), queues = EXCLUDED.queues, configs = EXCLUDED.configs
		)
		SELECT clock_timestamp(), coalesce(i.id, ''), coalesce({updated}, ''), i.queues, coalesce(i.configs::text, '')
		FROM (VALUES (1)) AS always LEFT JOIN {instances} AS i ON i.id <> $1::text`

	// Instances that hold jobs, but have no row of their own.
	postgresUnknown = `SELECT DISTINCT split_part({holder}, '#', 1) FROM {s}river_job AS j
		WHERE j.state = 'running' AND {holder} IS NOT NULL AND split_part({holder}, '#', 1) <> $1::text
			AND NOT EXISTS (SELECT 1 FROM {instances} WHERE id = split_part({holder}, '#', 1))`

	// Only those that still have not moved: whoever is back in the meantime is alive. The
	// jobs that the version before had put off are due for nobody else any more.
	postgresRescue = `
		WITH gone AS (
			SELECT gone.id FROM unnest($1::text[], $2::text[]) AS gone(id, heartbeat) LEFT JOIN {instances} AS i ON i.id = gone.id
			WHERE coalesce({updated}, '') = gone.heartbeat
		)
		UPDATE {s}river_job AS j SET {release}
		WHERE j.state = 'running' AND ({holder} IS NULL OR split_part({holder}, '#', 1) IN (SELECT id FROM gone))`

	postgresUnsnoozeDue = postgresUnsnooze + ` AND scheduled_at <= now()`

	postgresForget = `DELETE FROM {instances} AS i USING unnest($1::text[], $2::text[]) AS gone(id, heartbeat)
		WHERE i.id = gone.id AND {updated} = gone.heartbeat AND i.updated_at < now() - interval '1 day'`
)

// Beat implements DB.
func (d *postgresDB) Beat(ctx context.Context, self Presence) (Fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, postgresBeatTimeout)
	defer cancel()
	if self.Queues == nil {
		self.Queues = []string{}
	}
	if self.Configs == nil {
		self.Configs = map[string]string{}
	}
	configs, err := json.Marshal(self.Configs)
	if err != nil {
		return Fleet{}, err
	}
	var fleet Fleet
	others, heartbeats := make(map[string]Presence), make(map[string]string)
	err = d.query(ctx, func(rows pgx.Rows) error {
		clear(others)
		clear(heartbeats)
		var id, heartbeat, configs string
		var queues []string
		_, err := pgx.ForEachRow(rows, []any{&fleet.Now, &id, &heartbeat, &queues, &configs}, func() error {
			if id == "" { // there are no others
				return nil
			}
			other := Presence{Queues: queues}
			if err := json.Unmarshal([]byte(configs), &other.Configs); err != nil {
				other.Configs = nil // it is not of this program's making
			}
			others[id], heartbeats[id], queues = other, heartbeat, nil
			return nil
		})
		return err
	}, d.sql(postgresBeat), d.instance, self.Queues, string(configs))
	if err != nil {
		d.watch.miss()
		return Fleet{}, fmt.Errorf("heartbeat: %w", err)
	}
	now := postgresClock()
	d.watch.beat(now)
	if err := d.lookForUnknown(ctx, heartbeats); err != nil {
		return Fleet{}, fmt.Errorf("looking for instances without a heartbeat: %w", err)
	}
	d.watch.see(now, heartbeats)
	gone := d.watch.gone(now)
	for id, other := range others {
		if _, isGone := gone[id]; !isGone {
			fleet.Others = append(fleet.Others, other)
		}
	}
	return fleet, nil
}

// lookForUnknown adds the instances that hold jobs but have no row.
func (d *postgresDB) lookForUnknown(ctx context.Context, heartbeats map[string]string) error {
	return d.query(ctx, func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			if _, known := heartbeats[id]; !known {
				heartbeats[id] = ""
			}
			return nil
		})
		return err
	}, d.sql(postgresUnknown), d.instance)
}

// Rescue implements DB.
func (d *postgresDB) Rescue(ctx context.Context) (int64, error) {
	ids, heartbeats := []string{}, []string{}
	for id, heartbeat := range d.watch.gone(postgresClock()) {
		ids, heartbeats = append(ids, id), append(heartbeats, heartbeat)
	}
	rescued, err := d.exec(ctx, d.sql(postgresRescue), ids, heartbeats)
	if err != nil {
		return 0, fmt.Errorf("releasing jobs of instances that are gone: %w", err)
	}
	if _, err := d.exec(ctx, d.sql(postgresUnsnoozeDue)); err != nil {
		return rescued, fmt.Errorf("taking over snoozed jobs: %w", err)
	}
	if len(ids) > 0 {
		err = d.use(ctx, d.working, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, d.sql(postgresForget), ids, heartbeats)
			return err
		})
		if err != nil {
			return rescued, fmt.Errorf("deleting instances that are gone: %w", err)
		}
	}
	return rescued, nil
}
