package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Files of /proc, so the program runs on Linux only.

// processorTimes are times of all processors since the machine has started, in ticks.
type processorTimes struct{ idle, all float64 }

func readProcessorTimes() (t processorTimes, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return t, err
		}
		if i == 3 || i == 4 { // idle, and idle while a disk works
			t.idle += ticks
		}
		if i < 8 { // those of guests are in user's
			t.all += ticks
		}
	}
	return t, nil
}

// idleSince returns which share of the processors was idle.
func idleSince(before processorTimes) (float64, error) {
	now, err := readProcessorTimes()
	if err != nil || now.all == before.all {
		return 0, err
	}
	return (now.idle - before.idle) / (now.all - before.all), nil
}

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

// processorTime returns how long a process has used processors.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold anything else
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d has the stat %q", pid, stat)
	}
	var ticks int
	for _, field := range fields[11:13] { // user and system
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}
