//go:build postgres

package jobdb

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// age makes all that was seen so much older.
func (w *postgresWatch) age(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onTime = w.onTime.Add(-by)
	for id, sighting := range w.seen {
		sighting.since = sighting.since.Add(-by)
		w.seen[id] = sighting
	}
}

func TestPostgresWatch(t *testing.T) {
	type step struct {
		at        time.Duration
		heartbeat string // of the other one
		gone      bool
	}
	const second = time.Second
	for name, steps := range map[string][]step{
		"alive":                        {{0, "a", false}, {9 * second, "b", false}, {18 * second, "c", false}, {27 * second, "d", false}, {36 * second, "e", false}, {45 * second, "f", false}},
		"gone":                         {{0, "a", false}, {9 * second, "a", false}, {18 * second, "a", false}, {27 * second, "a", false}, {31 * second, "a", true}},
		"alive by a clock that steps":  {{0, "b", false}, {9 * second, "a", false}, {18 * second, "c", false}, {27 * second, "a", false}, {36 * second, "c", false}},
		"back again":                   {{0, "a", false}, {9 * second, "a", false}, {18 * second, "a", false}, {27 * second, "a", false}, {31 * second, "a", true}, {36 * second, "b", false}},
		"silent while all were":        {{0, "a", false}, {9 * second, "a", false}, {40 * second, "a", false}, {49 * second, "a", false}, {58 * second, "a", false}, {67 * second, "a", false}, {71 * second, "a", true}},
		"never with a row of its own":  {{0, "", false}, {9 * second, "", false}, {18 * second, "", false}, {27 * second, "", false}, {31 * second, "", true}},
		"first a row, then none of it": {{0, "a", false}, {9 * second, "", false}, {18 * second, "", false}, {27 * second, "", false}, {36 * second, "", false}, {40 * second, "", true}},
	} {
		t.Run(name, func(t *testing.T) {
			var watch postgresWatch
			began := time.Now()
			for _, step := range steps {
				now := began.Add(step.at)
				watch.beat(now)
				watch.see(now, map[string]string{"other": step.heartbeat})
				if _, gone := watch.gone(now)["other"]; gone != step.gone {
					t.Errorf("after %v: gone is %v", step.at, gone)
				}
			}
			if len(watch.gone(began.Add(time.Hour))) != 0 {
				t.Error("judged without a heartbeat of its own")
			}
		})
	}
}

func TestPostgresFleet(t *testing.T) {
	p := newPgTest(t)
	other := pgOpen(t, pgShared, p.schema)
	presence := Presence{Queues: []string{"talk", "a,b"}, Configs: map[string]string{"intercom": "4711"}}
	if _, err := other.Beat(t.Context(), presence); err != nil {
		t.Fatal(err)
	}
	beat := func() []Presence {
		t.Helper()
		fleet, err := p.Beat(t.Context(), Presence{})
		if err != nil {
			t.Fatal(err)
		}
		return fleet.Others
	}
	if got := beat(); fmt.Sprint(got) != fmt.Sprint([]Presence{presence}) {
		t.Errorf("others: %v, want %v", got, presence)
	}
	stored, err := other.Store(t.Context(), func() []*NewJob {
		return []*NewJob{pgJob("talk", `{}`, "", 7), pgJob("talk", `{}`, "", 7)}
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := p.store(pgJob("talk", `{}`, "", p.next()))
	nobodys := p.store(pgJob("talk", `{}`, "", p.next()), pgJob("talk", `{}`, "", p.next()))
	p.run("UPDATE {s}river_job SET attempted_by = NULL WHERE id = $1", nobodys[0].ID)
	p.run("UPDATE {s}river_job SET attempted_by = '{}' WHERE id = $1", nobodys[1].ID)
	rescue := func(want int64) {
		t.Helper()
		if rescued, err := p.Rescue(t.Context()); err != nil || rescued != want {
			t.Errorf("rescued %d, want %d (%v)", rescued, want, err)
		}
	}
	rescue(2)

	p.run("UPDATE {instances} SET updated_at = updated_at - interval '2 days'") // the clock was set forward
	beat()
	rescue(0)
	p.watch.age(GoneAfter - 5*time.Second)
	rescue(0)
	p.watch.age(5 * time.Second)
	if _, err := other.Beat(t.Context(), presence); err != nil { // it is back, which nobody has seen yet
		t.Fatal(err)
	}
	rescue(0)

	p.run("UPDATE {instances} SET updated_at = updated_at - interval '2 days' WHERE id <> $1", p.Instance())
	beat()
	p.watch.age(GoneAfter)
	if got := beat(); len(got) != 0 {
		t.Errorf("others: %v, want none", got)
	}
	rescue(2)
	rescue(0)
	if got := p.text("SELECT string_agg(id, ' ') FROM {instances}"); got != p.Instance() {
		t.Errorf("rows of instances that are gone for a day: %s", got)
	}
	if got := p.text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM {s}river_job WHERE state = 'available' AND attempt = 0"); got != fmt.Sprint(stored[0].ID, " ", stored[1].ID, " ", nobodys[0].ID, " ", nobodys[1].ID) {
		t.Errorf("available are %s", got)
	}
	if applied, err := other.Finish(t.Context(), []Outcome{{ID: stored[0].ID, Token: 7, State: StateCompleted}}); err != nil || len(applied) != 0 {
		t.Errorf("the one that was gone has finished %v (%v)", applied, err)
	}
	if applied := p.finish(Outcome{ID: mine[0].ID, Token: p.token - 2, State: StateCompleted}); len(applied) != 1 {
		t.Errorf("the claim of this process is lost")
	}
}

func TestPostgresRescuesHoldersWithoutRow(t *testing.T) {
	p := newPgTest(t)
	p.store(pgJob("talk", `{}`, "", p.next()))
	p.run("UPDATE {s}river_job SET attempted_by = '{elsewhere#1}'")
	for range 2 {
		if _, err := p.Beat(t.Context(), Presence{}); err != nil {
			t.Fatal(err)
		}
		if rescued, err := p.Rescue(t.Context()); err != nil || rescued != 0 {
			t.Errorf("rescued %d (%v)", rescued, err)
		}
	}
	p.watch.age(GoneAfter)
	if rescued, err := p.Rescue(t.Context()); err != nil || rescued != 1 {
		t.Errorf("rescued %d (%v)", rescued, err)
	}
}

func TestPostgresCloseTellsOthers(t *testing.T) {
	p := newPgTest(t)
	other := pgOpen(t, pgShared, p.schema)
	for _, db := range []*postgresDB{other, p.postgresDB} {
		if _, err := db.Beat(t.Context(), Presence{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if fleet, err := p.Beat(t.Context(), Presence{}); err != nil || len(fleet.Others) != 0 {
		t.Errorf("others: %v (%v)", fleet.Others, err)
	}
}

func TestPostgresBacklogAndCount(t *testing.T) {
	p := newPgTest(t)
	for i, state := range []string{"available", "running", "retryable", "pending", "scheduled", "completed", "discarded", "cancelled"} {
		for queue := range 3 {
			id := p.stored(fmt.Sprintf("%s %d", state, queue), `{}`)
			p.run("UPDATE {s}river_job SET state = $2::{s}river_job_state, finalized_at = CASE WHEN $3 THEN now() END WHERE id = $1", id, state, i > 4)
		}
	}
	queues, err := p.QueuesWith(t.Context(), UnfinishedStates)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(queues)
	want := []string{"available 0", "available 1", "available 2", "pending 0", "pending 1", "pending 2", "retryable 0", "retryable 1", "retryable 2",
		"running 0", "running 1", "running 2", "scheduled 0", "scheduled 1", "scheduled 2"}
	if !slices.Equal(queues, want) {
		t.Errorf("got %q", queues)
	}
	counts, err := p.Count(t.Context(), StateDiscarded)
	if err != nil || fmt.Sprint(counts) != "map[discarded 0:1 discarded 1:1 discarded 2:1]" {
		t.Errorf("got %v (%v)", counts, err)
	}
}

func TestPostgresOldest(t *testing.T) {
	p := newPgTest(t)
	oldest := func(want string) {
		t.Helper()
		ages, err := p.Oldest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]time.Duration)
		for queue, age := range ages {
			got[queue] = age.Round(time.Hour)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	oldest("map[]")
	var ids []int64
	for i, state := range []string{"completed", "retryable", "running", "available", "available"} {
		ids = append(ids, p.stored("talk", `{}`))
		p.run(`UPDATE {s}river_job SET state = $2::{s}river_job_state, created_at = now() - $3 * interval '1 hour', scheduled_at = now() - $3 * interval '1 hour',
			finalized_at = CASE WHEN $2 = 'completed' THEN now() END WHERE id = $1`, ids[i], state, 10-i)
	}
	p.stored("other", `{}`)
	for _, want := range []string{"map[other:0s talk:9h0m0s]", "map[other:0s talk:8h0m0s]", "map[other:0s talk:7h0m0s]", "map[other:0s talk:6h0m0s]", "map[other:0s]"} {
		oldest(want)
		p.run("UPDATE {s}river_job SET state = 'completed', finalized_at = now() WHERE id = (SELECT min(id) FROM {s}river_job WHERE queue = 'talk' AND state <> 'completed')")
	}
	p.stored("talk", `{}`)
	oldest("map[other:0s talk:0s]")
}

func TestPostgresChanges(t *testing.T) {
	p := newPgTest(t)
	changes := func() uint64 {
		t.Helper()
		n, err := p.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := changes()
	p.stored("talk", `{}`)
	stored := changes()
	p.one("talk")
	claimed := changes()
	if stored == before || claimed == stored {
		t.Errorf("changes went from %d to %d and %d", before, stored, claimed)
	}
}

func TestPostgresExpire(t *testing.T) {
	p := newPgTest(t)
	for i, state := range []string{"completed", "discarded", "cancelled", "available"} {
		for _, queue := range []string{"talk", "kept"} {
			for age := range 4 {
				id := p.stored(queue, `{}`)
				p.run("UPDATE {s}river_job SET state = $2::{s}river_job_state, finalized_at = CASE WHEN $4 THEN now() - $3 * interval '1 hour' END WHERE id = $1", id, state, age*10, i < 3)
			}
		}
	}
	expire := func(limit int, want int64) {
		t.Helper()
		deleted, err := p.Expire(t.Context(), Expiry{Queues: []string{"talk"}, KeepCompleted: 15 * time.Hour, KeepDead: 25 * time.Hour, Limit: limit})
		if err != nil || deleted != want {
			t.Errorf("deleted %d, want %d (%v)", deleted, want, err)
		}
	}
	expire(1, 1)
	expire(2, 2)
	expire(100, 1)
	expire(100, 0)
	if got, want := p.text("SELECT string_agg(queue || ' ' || state || ' ' || n, ', ' ORDER BY queue, state::text) FROM (SELECT queue, state, count(*) AS n FROM {s}river_job GROUP BY 1, 2) AS c"),
		"kept available 4, kept cancelled 4, kept completed 4, kept discarded 4, talk available 4, talk cancelled 3, talk completed 2, talk discarded 3"; got != want {
		t.Errorf("left are %s", got)
	}
}

func TestPostgresReclock(t *testing.T) {
	p := newPgTest(t)
	for _, set := range []string{
		"state = 'retryable', attempted_at = now() + interval '3 hours', scheduled_at = now() + interval '3 hours 5 minutes'",
		"state = 'retryable', attempted_at = now() - interval '1 minute', scheduled_at = now() + interval '9 minutes'",
		"state = 'running', attempted_at = now() + interval '3 hours', scheduled_at = now() + interval '7 minutes'",
	} {
		p.run("UPDATE {s}river_job SET "+set+" WHERE id = $1", p.stored("talk", `{}`))
	}
	if changed, err := p.Reclock(t.Context()); err != nil || changed != 1 {
		t.Errorf("changed %d (%v)", changed, err)
	}
	if got := p.text("SELECT string_agg(round(extract(epoch FROM scheduled_at - now()) / 60)::text, ' ' ORDER BY id) FROM {s}river_job"); got != "5 9 7" {
		t.Errorf("due in %s minutes", got)
	}
}

func TestPostgresQueues(t *testing.T) {
	p := newPgTest(t)
	queues := func(names ...string) map[string]bool {
		t.Helper()
		paused, err := p.Queues(t.Context(), names)
		if err != nil {
			t.Fatal(err)
		}
		return paused
	}
	queues("talk", "mail", "talk")
	p.run("UPDATE {s}river_queue SET paused_at = now() WHERE name = 'mail'")
	if got := queues("talk"); fmt.Sprint(got) != "map[mail:true]" {
		t.Errorf("paused are %v", got)
	}
	const versions = "SELECT string_agg(xmin::text || xmax::text, ' ' ORDER BY name) FROM {s}river_queue"
	before := p.text(versions)
	queues("talk", "mail")
	if got := p.text(versions); got != before {
		t.Error("rows that were up to date were written")
	}
	p.run("UPDATE {s}river_queue SET updated_at = now() - interval '11 minutes'")
	if got := queues("talk", "mail"); fmt.Sprint(got) != "map[mail:true]" {
		t.Errorf("paused are %v", got)
	}
	if got := p.text("SELECT count(*)::text FROM {s}river_queue WHERE updated_at > now() - interval '1 minute'"); got != "2" {
		t.Errorf("%s rows are up to date, want 2", got)
	}
}
