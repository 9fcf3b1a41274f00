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

// addRows adds copies of the one notification that a store has in it, while no process runs.
// Of their deliveries, which were stored ten days ago, it is given the state, and when they are
// due and have finished.
func (p *process) addRows(rows int, state string) {
	p.t.Helper()
	const numbers = `WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= %d) `
	execute(p.t, p.store, "PRAGMA synchronous = OFF",
		fmt.Sprintf(numbers+`INSERT INTO notification (id, endpoint, workspace, topic, notification_id, received_at, request)
			SELECT i, endpoint, workspace, topic, 'added' || i, received_at, request FROM notification, n WHERE id = 1`, rows),
		fmt.Sprintf(numbers+`INSERT INTO body (notification, bytes) SELECT i, bytes FROM body, n WHERE notification = 1`, rows),
		fmt.Sprintf(numbers+`INSERT INTO delivery (id, notification, endpoint, lane, workspace, topic, fixed, attempts, stored_at, age_from, state, due_at, finished_at)
			SELECT 100 * i, (i), endpoint, lane, workspace, topic, fixed, 1, stored_at - 864000000000, age_from, %s FROM delivery, n WHERE id = 100`, rows, state))
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
func TestLoadBesideManyRetries(t *testing.T) {
	const rows = 1_500_000
	p := newProcess(t)
	s := p.queued("route * as all { respond 200 }", "")
	p.start(s)
	p.post(topic)
	p.idle()
	p.stop()
	p.addRows(rows, `'retrying', (unixepoch() + 3 * 3600) * 1000000, NULL`)
	p.start(s)
	p.wantAtLeast(`queue_deliveries{lane="all",state="retrying"}`, rows)
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
	// What is deleted is overwritten, as with secure_delete, in three tables.
	const rows, least = 500_000, 2000
	p := newProcess(t)
	s := p.queued("route * as all { respond 200 }", "")
	p.start(s)
	p.post(topic)
	p.idle()
	p.stop()
	p.addRows(rows, `'delivered', due_at, (unixepoch() - 10 * 86400) * 1000000`)
	p.start(s)
	expired := func() int { return p.rows("finished_at < (unixepoch() - 9 * 86400) * 1000000") }
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

// rows counts the deliveries of the store that fulfil a condition.
func (p *process) rows(where string) (n int) {
	p.t.Helper()
	db, err := sql.Open("sqlite", "file:"+p.store+"?_pragma=busy_timeout(10000)")
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM delivery WHERE " + where).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}
