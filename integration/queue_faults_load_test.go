//go:build load

package integration

import (
	"database/sql"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// addRows adds copies of the one job that a store has in it, while no process runs.
func (p *process) addRows(rows int, columns string) {
	p.t.Helper()
	execute(p.t, p.store, "PRAGMA synchronous = OFF", fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO river_job (args, attempt, attempted_at, attempted_by, created_at, finalized_at, kind, max_attempts, metadata, queue, scheduled_at, state, tags)
		SELECT args, %s, tags FROM river_job, n WHERE id = (SELECT max(id) FROM river_job)`, rows, columns))
	syscall.Sync() // or else the first answers would wait for the disk to write these rows
}

// processorTime returns how much of a processor the process has used.
func (p *process) processorTime() time.Duration {
	p.t.Helper()
	stat := string(content(p.t, fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		p.t.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / 100
}

// Rows that wait for their retry cost nothing for as long as they wait.
func TestLoadBesideManyRetryableRows(t *testing.T) {
	const rows = 1_500_000
	p := newProcess(t)
	s := p.queued("route * as all { respond 200 }", "")
	p.start(s)
	p.post(topic)
	p.idle()
	p.stop()
	p.addRows(rows, `1, datetime('now', 'subsec'), '["gone"]', created_at, NULL, kind, 20, '{}', queue, datetime('now', '+3 hours'), 'retryable'`)
	p.start(s)
	p.wantAtLeast(`queue_jobs{lane="all",state="retryable"}`, rows)
	idle := false
	for try := 0; try < 3 && !idle; try++ {
		time.Sleep(10 * time.Second)
		before := p.processorTime()
		time.Sleep(10 * time.Second)
		used := p.processorTime() - before
		t.Logf("idle, %s of 10s of a processor are used", used)
		idle = used < time.Second
	}
	if !idle {
		t.Error("an idle process uses more than a tenth of a processor")
	}
	wantP99(t, "answers beside rows that wait for their retry", 50*time.Millisecond, func() []time.Duration {
		return p.arrivals("content_stat.series", 500, 10*time.Second)
	})
}

// Rows that are no longer kept are deleted soon, and answers do not wait for that.
func TestLoadWhileManyRowsExpire(t *testing.T) {
	const rows, least = 500_000, 5000
	p := newProcess(t)
	s := p.queued("route * as all { respond 200 }", "")
	p.start(s)
	p.post(topic)
	p.idle()
	p.stop()
	p.addRows(rows, `1, created_at, '["gone"]', created_at, datetime('now', '-10 days'), kind, 20, '{}', queue, scheduled_at, 'completed'`)
	p.start(s)
	expired := func() int { return p.rows("finalized_at < datetime('now', '-9 days')") }
	within(t, longPatience, "it has begun", func() bool { return expired() < rows })
	left, began := expired(), time.Now()
	wantP99(t, "answers while rows are deleted", 50*time.Millisecond, func() []time.Duration {
		return p.arrivals("content_stat.series", 500, 10*time.Second)
	})
	deleted, took := left-expired(), time.Since(began)
	t.Logf("%d rows are deleted in %s, %.0f/s", deleted, took, float64(deleted)/took.Seconds())
	if expired() > 0 && float64(deleted)/took.Seconds() < least {
		t.Errorf("%.0f rows a second are deleted, want %d", float64(deleted)/took.Seconds(), least)
	}
}

// rows counts the rows of the store that fulfil a condition.
func (p *process) rows(where string) (n int) {
	p.t.Helper()
	db, err := sql.Open("sqlite", "file:"+p.store+"?_pragma=busy_timeout(10000)")
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM river_job WHERE " + where).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}
