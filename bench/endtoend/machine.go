package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Files of /proc, so the program runs on Linux only.

// mostMemory returns the largest resident set that a process has had, in bytes.
func mostMemory(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if size, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kibibytes, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(size), "kB")), 64)
			return kibibytes * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// ticksPerSecond is the same on all of Linux that Go runs on.
const ticksPerSecond = 100

// processorTime returns how long a process has used processors, and separately the
// children for which it has waited.
func processorTime(pid int) (own, children time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold anything else
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("process %d has the stat %q", pid, stat)
	}
	var ticks [4]int // user and system, of itself and of its children
	for i, field := range fields[11:15] {
		if ticks[i], err = strconv.Atoi(field); err != nil {
			return 0, 0, err
		}
	}
	const tick = time.Second / ticksPerSecond
	return time.Duration(ticks[0]+ticks[1]) * tick, time.Duration(ticks[2]+ticks[3]) * tick, nil
}

// processorTimeOfAll returns how long the processes with a name have used processors, those
// that have ended included.
func processorTimeOfAll(name string) (sum time.Duration, err error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, file := range names {
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue // it has ended, or is another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return 0, err
		}
		own, children, err := processorTime(pid)
		if err != nil {
			continue // it has ended, and its time is now that of its parent's children
		}
		sum += own + children
	}
	return sum, nil
}

// usage is what the gateway, and the server of PostgreSQL on this machine, have used.
type usage struct {
	gateway, server time.Duration
	log             float64 // bytes of write-ahead log
}

func (r *rig) startUsage(ctx context.Context) (u usage, err error) {
	if u.gateway, _, err = processorTime(r.cmd.Process.Pid); err != nil || r.bench.engine != postgres {
		return u, err
	}
	if u.server, err = processorTimeOfAll("postgres"); err != nil {
		return u, err
	}
	conn, err := pgx.Connect(ctx, r.bench.url)
	if err != nil {
		return u, err
	}
	defer conn.Close(ctx)
	return u, conn.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8").Scan(&u.log)
}
