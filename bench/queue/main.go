// Command queue measures how fast the queue stores and delivers, beside appending the
// same bytes to a file, which is the least that a promise to lose nothing costs. See
// ../README.md.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddyserver/caddy/v2"
)

const (
	callers  = 64 // who store at once
	bodySize = 4 << 10

	// mostUndelivered is how far storing may run ahead of delivering where both are
	// measured, so that what is measured can go on for as long as one likes.
	mostUndelivered = 5000

	databaseFile = "queue.db"
	schema       = "intercom_webhook_bench"
)

var options struct {
	engine     string
	url        string
	dir        string
	lanes      int
	rounds     int
	duration   time.Duration
	backlog    int
	cpuProfile string
	again      bool
}

func main() {
	flag.StringVar(&options.engine, "engine", "sqlite", "sqlite or postgres")
	flag.StringVar(&options.url, "url", "postgres://postgres@127.0.0.1:5432/postgres", "of PostgreSQL; a schema is made in it, and dropped")
	flag.StringVar(&options.dir, "dir", "", "a folder on the disk to be measured; a temporary one if empty")
	flag.IntVar(&options.lanes, "lanes", 3, "lanes that the notifications are spread over")
	flag.IntVar(&options.rounds, "rounds", 3, "how often to measure; the median counts")
	flag.DurationVar(&options.duration, "duration", 15*time.Second, "how long to store and deliver together")
	flag.IntVar(&options.backlog, "backlog", 200_000, "how many notifications to store before they are delivered")
	flag.StringVar(&options.cpuProfile, "cpuprofile", "", "file for a profile of storing and delivering together")
	flag.BoolVar(&options.again, "again", false, "deliver the backlog; the program calls itself with this")
	flag.Parse()
	measure := run
	if options.again {
		measure = deliverBacklog
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "queue:", err)
		os.Exit(1)
	}
}

// result is what one round has measured.
type result struct {
	Appending, Storing, Together pace
	Again                        again
}

// pace is how many notifications were done in a second, how long half and 99 % of
// those who stored them waited at most, and what each cost this process.
type pace struct {
	Rate          float64
	P50, P99, CPU time.Duration
}

// again is what a process has measured that starts on a backlog.
type again struct {
	Start    time.Duration // until the config runs
	First    time.Duration // until the first delivery
	Memory   int64         // resident then, in bytes
	Draining pace
	Peak     int64 // resident at most until all is delivered
}

func run() (err error) {
	dir := options.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "bench"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	database := filepath.Join(dir, databaseFile)
	defer func() { err = errors.Join(err, erase(database)) }()
	var results []result
	for range options.rounds {
		measured, err := round(database, filepath.Join(dir, "appended"))
		if err != nil {
			return err
		}
		results = append(results, measured)
	}
	report(results)
	return nil
}

// round measures everything once, and appends before each step, as the disk may be
// faster now and then.
func round(database, file string) (measured result, err error) {
	var appending []pace
	for _, step := range []func() error{
		func() (err error) { measured.Together, err = storeAndDeliver(database); return err },
		func() (err error) { measured.Storing, err = storeOnly(database); return err },
		func() (err error) { measured.Again, err = startAgain(database); return err },
	} {
		appended, err := appendToFile(file)
		if err != nil {
			return measured, err
		}
		appending = append(appending, appended)
		if err := step(); err != nil {
			return measured, err
		}
	}
	slices.SortFunc(appending, func(a, b pace) int { return cmp.Compare(a.Rate, b.Rate) })
	measured.Appending = appending[len(appending)/2]
	return measured, nil
}

// storeAndDeliver stores as fast as it is delivered, on a database that is empty.
func storeAndDeliver(database string) (together pace, err error) {
	q, err := startEmpty(database)
	if err != nil {
		return together, err
	}
	close(q.gate)
	q.room = make(chan struct{}, mostUndelivered)
	stopProfile, err := startProfile()
	if err != nil {
		return together, err
	}
	w := startWatch()
	waits, err := storeConcurrently(q, func(int64) bool { return time.Since(w.began) < options.duration })
	together = w.pace(q.delivered.Load(), waits)
	stopProfile()
	if err != nil {
		return together, err
	}
	q.waitForDelivered(int64(len(waits))) // nothing may be lost
	return together, caddy.Stop()
}

// storeOnly leaves a backlog.
func storeOnly(database string) (storing pace, err error) {
	q, err := startEmpty(database)
	if err != nil {
		return storing, err
	}
	w := startWatch()
	waits, err := storeConcurrently(q, func(n int64) bool { return n <= int64(options.backlog) })
	storing = w.pace(int64(len(waits)), waits)
	if err != nil {
		return storing, err
	}
	// those that wait at the gate fail when nothing else is fetched any more
	time.AfterFunc(time.Second, func() { close(q.ended) })
	return storing, caddy.Stop()
}

// storeConcurrently has all callers store for as long as another one is wanted, and
// returns how long each had to wait for it.
func storeConcurrently(q *subject, another func(n int64) bool) ([]time.Duration, error) {
	var begun atomic.Int64
	waits := make([][]time.Duration, callers)
	errs := make([]error, callers)
	var running sync.WaitGroup
	for caller := range callers {
		running.Go(func() {
			for errs[caller] == nil {
				n := begun.Add(1)
				if !another(n) {
					return
				}
				if q.room != nil {
					q.room <- struct{}{}
				}
				began := time.Now()
				errs[caller] = q.store(n)
				waits[caller] = append(waits[caller], time.Since(began))
			}
		})
	}
	running.Wait()
	return slices.Concat(waits...), errors.Join(errs...)
}

// watch measures from when it is started.
type watch struct {
	began time.Time
	used  time.Duration
}

func startWatch() watch { return watch{time.Now(), cpu()} }

func (w watch) pace(n int64, waits []time.Duration) pace {
	p := pace{Rate: float64(n) / time.Since(w.began).Seconds(), CPU: (cpu() - w.used) / time.Duration(n)}
	if len(waits) > 0 {
		slices.Sort(waits)
		p.P50, p.P99 = waits[len(waits)/2], waits[len(waits)*99/100]
	}
	return p
}

// cpu returns what this process has used so far, on all cores together.
func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // the call is known, and the pointer good
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func startProfile() (stop func(), err error) {
	if options.cpuProfile == "" {
		return func() {}, nil
	}
	file, err := os.Create(options.cpuProfile)
	if err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
	}, pprof.StartCPUProfile(file)
}

// startAgain has another process deliver the backlog.
func startAgain(database string) (measured again, err error) {
	program, err := os.Executable()
	if err != nil {
		return measured, err
	}
	cmd := exec.Command(program, append(os.Args[1:], "-again", "-dir", filepath.Dir(database))...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return measured, fmt.Errorf("delivering the backlog: %w", err)
	}
	return measured, json.Unmarshal(out, &measured)
}

// deliverBacklog is what that process does.
func deliverBacklog() error {
	began := time.Now()
	q, err := start(filepath.Join(options.dir, databaseFile))
	if err != nil {
		return err
	}
	measured := again{Start: time.Since(began)}
	close(q.gate)
	q.waitForDelivered(1)
	measured.First = time.Since(began)
	if measured.Memory, err = memory("VmRSS"); err != nil {
		return err
	}
	first, w := q.delivered.Load(), startWatch()
	q.waitForDelivered(int64(options.backlog))
	measured.Draining = w.pace(q.delivered.Load()-first, nil)
	if measured.Peak, err = memory("VmHWM"); err != nil {
		return err
	}
	if err := caddy.Stop(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(measured)
}

// memory returns a field of this process's status, in bytes.
func memory(field string) (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(status), field+":")
	var kilobytes int64
	_, err = fmt.Sscan(value, &kilobytes)
	return kilobytes << 10, err
}

func startEmpty(database string) (*subject, error) {
	if err := erase(database); err != nil {
		return nil, err
	}
	return start(database)
}

// erase removes the database. There may be none.
func erase(database string) error {
	if options.engine == "postgres" {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, options.url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
		return err
	}
	files, err := filepath.Glob(database + "*")
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

func report(results []result) {
	fmt.Printf("%s, %d callers, %d lanes, bodies of %d bytes, %d cores\n\n", options.engine, callers, options.lanes, bodySize, runtime.NumCPU())
	fmt.Printf("%-32s %10s %8s %8s %8s %8s   %s\n", "subject", "median/s", "ratio", "p50 ms", "p99 ms", "CPU µs", "ratios of the rounds")
	for _, subject := range []struct {
		name string
		pace func(result) pace
	}{
		{"appending to a file", func(r result) pace { return r.Appending }},
		{"storing", func(r result) pace { return r.Storing }},
		{"storing and delivering together", func(r result) pace { return r.Together }},
		{"delivering a backlog", func(r result) pace { return r.Again.Draining }},
	} {
		of := func(value func(pace) float64) float64 {
			return medianOf(results, func(r result) float64 { return value(subject.pace(r)) })
		}
		ratio := func(r result) float64 { return subject.pace(r).Rate / r.Appending.Rate }
		fmt.Printf("%-32s %10.0f %8.3f %8.1f %8.1f %8.0f  ", subject.name,
			of(func(p pace) float64 { return p.Rate }),
			medianOf(results, ratio),
			of(func(p pace) float64 { return milliseconds(p.P50) }),
			of(func(p pace) float64 { return milliseconds(p.P99) }),
			of(func(p pace) float64 { return 1000 * milliseconds(p.CPU) }))
		for _, r := range results {
			fmt.Printf(" %.3f", ratio(r))
		}
		fmt.Println()
	}
	fmt.Printf("\nstart on a backlog of %d: %.0f ms, first delivery after %.0f ms, %.0f MiB resident then, %.0f MiB at most\n", options.backlog,
		medianOf(results, func(r result) float64 { return milliseconds(r.Again.Start) }),
		medianOf(results, func(r result) float64 { return milliseconds(r.Again.First) }),
		medianOf(results, func(r result) float64 { return float64(r.Again.Memory) / (1 << 20) }),
		medianOf(results, func(r result) float64 { return float64(r.Again.Peak) / (1 << 20) }))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func medianOf(results []result, value func(result) float64) float64 {
	values := make([]float64, len(results))
	for i, r := range results {
		values[i] = value(r)
	}
	return median(values)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
