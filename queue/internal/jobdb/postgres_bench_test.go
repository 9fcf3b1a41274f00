//go:build postgres

package jobdb

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// benchArgs is a JSON object of some 4 KiB, of words.
func benchArgs() []byte {
	var text []byte
	for len(text) < 4000 {
		text = fmt.Appendf(text, "word%d ", rand.N(5000))
	}
	args, _ := json.Marshal(map[string]any{"topic": "conversation.user.created", "body": string(text)})
	return args
}

func benchJobs(n int, token Token) []*NewJob {
	jobs := make([]*NewJob, n)
	for i := range jobs {
		jobs[i] = pgJob("talk", "", fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), token)
		jobs[i].Args = benchArgs()
		jobs[i].Tags = []string{"abc123", "notif_0123456789"}
	}
	return jobs
}

func perJob(b *testing.B, jobs int) {
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*jobs), "µs/job")
}

func BenchmarkPostgresStore(b *testing.B) {
	p := newPgTest(b)
	const batch = 64
	batches := make([][]*NewJob, 64)
	for i := range batches {
		batches[i] = benchJobs(batch, 1)
	}
	i := 0
	for b.Loop() {
		if i%len(batches) == 0 && i > 0 {
			b.StopTimer()
			p.run("TRUNCATE {s}river_job")
			b.StartTimer()
		}
		p.store(batches[i%len(batches)]...)
		i++
	}
	perJob(b, batch)
}

func BenchmarkPostgresClaimAndFinish(b *testing.B) {
	p := newPgTest(b)
	const batch = 300
	var claiming, finishing time.Duration
	for b.Loop() {
		b.StopTimer()
		for range 5 {
			p.store(benchJobs(60, 0)...)
		}
		b.StartTimer()
		began := time.Now()
		jobs, _ := p.claim(Claim{Queue: "talk", Limit: batch, MaxBytes: 16 << 20})
		claiming += time.Since(began)
		outcomes := make([]Outcome, len(jobs))
		for i, job := range jobs {
			outcomes[i] = Outcome{ID: job.ID, Token: job.Token, State: StateCompleted}
		}
		began = time.Now()
		if applied := p.finish(outcomes...); len(applied) != batch {
			b.Fatalf("finished %d", len(applied))
		}
		finishing += time.Since(began)
	}
	b.ReportMetric(float64(claiming.Microseconds())/float64(b.N*batch), "µs/claimed")
	b.ReportMetric(float64(finishing.Microseconds())/float64(b.N*batch), "µs/finished")
	perJob(b, batch)
}
