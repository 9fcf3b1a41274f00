//go:build postgres

package jobdb

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// fill stores available jobs of a queue: n of one workspace, and then one of each other.
func (p *pgTest) fill(n, others int) {
	p.run(`INSERT INTO {s}river_job (args, kind, max_attempts, queue, tags)
		SELECT '{}', 'k', 20, 'talk', ARRAY[CASE WHEN i <= $1 THEN 'burst' ELSE 'other' || i END, 'n' || i] FROM generate_series(1, $1::int + $2::int) AS i`, n, others)
}

// claimPlans returns the plans of both statements of a claim in turns.
func (p *pgTest) claimPlans() (plans []string) {
	for _, statement := range postgresClaims[1] {
		rows, err := p.pool.Query(p.Context(), p.sql("EXPLAIN "+statement), pgx.QueryExecModeExec, "talk", []int64{}, 150, "host-1#1", 1<<20, "burst")
		if err != nil {
			p.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			p.Fatal(err)
		}
		plans = append(plans, strings.Join(lines, "\n"))
	}
	return plans
}

func TestPostgresTurnsUseTheIndex(t *testing.T) {
	p := newPgTest(t)
	// both skip scans and the shares, and in some versions of PostgreSQL's plans more
	uses := regexp.MustCompile("using intercom_webhook_turns on river_job.*\n +Index Cond: .*queue.* AND .*(priority = .* AND .*tags|priority = )")
	check := func(what string) {
		t.Helper()
		for _, plan := range p.claimPlans() {
			if n := len(uses.FindAllString(plan, -1)); n < 3 {
				t.Errorf("%s: the index of turns is used %d times, want at least 3:\n%s", what, n, plan)
			}
			if strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s: there is a sequential scan:\n%s", what, plan)
			}
		}
	}
	p.run("INSERT INTO {s}river_job (args, kind, max_attempts, queue, tags, state, finalized_at) SELECT '{}', 'k', 20, 'talk', ARRAY['burst', 'n' || i], 'completed', now() FROM generate_series(1, 5000) AS i")
	check("without statistics")
	p.run("ANALYZE {s}river_job")
	check("with statistics of no available jobs")
	p.fill(3000, 200)
	check("with old statistics")
	p.run("ANALYZE {s}river_job")
	check("with new statistics")
}

func TestPostgresMakesTheIndexOfTurnsInTheBackground(t *testing.T) {
	p := newPgTest(t)
	p.fill(100, 1)
	p.run("DROP INDEX {s}intercom_webhook_turns")
	again := pgOpen(t, pgShared, p.schema)
	for deadline := time.Now().Add(30 * time.Second); !again.fair.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the index is not made")
		}
	}
	jobs, _, err := again.Claim(t.Context(), Claim{Queue: "talk", Token: 1, Limit: 2, MaxBytes: 1 << 20})
	if err != nil || len(jobs) != 2 || jobs[0].Workspace == jobs[1].Workspace {
		t.Errorf("claimed %+v (%v), want one of each workspace", jobs, err)
	}
}

func TestPostgresClaimsWithoutTheIndexOfTurns(t *testing.T) {
	p := newPgTest(t)
	p.fill(3, 1)
	p.fair.Store(false)
	jobs, _ := p.claim(Claim{Queue: "talk", Limit: 2, MaxBytes: 1 << 20})
	if len(jobs) != 2 || jobs[0].Workspace != "burst" || jobs[1].Workspace != "burst" {
		t.Errorf("claimed %+v, want the oldest", jobs)
	}
}

// BenchmarkPostgresClaimInTurns claims from a backlog of one workspace, and of one beside
// 200 others, in turns and without.
func BenchmarkPostgresClaimInTurns(b *testing.B) {
	for _, others := range []int{0, 200} {
		for _, fair := range []bool{false, true} {
			b.Run(fmt.Sprintf("others=%d/turns=%t", others, fair), func(b *testing.B) {
				p := newPgTest(b)
				p.fair.Store(fair)
				p.fill(20_000, others)
				claimed := 0
				for b.Loop() {
					jobs, _ := p.claim(Claim{Queue: "talk", Limit: 150, MaxBytes: 16 << 20})
					claimed += len(jobs)
					b.StopTimer()
					p.run("UPDATE {s}river_job SET state = 'completed', finalized_at = now() WHERE state = 'running'")
					p.fill(150, min(others, 1))
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(claimed), "µs/job")
			})
		}
	}
}
