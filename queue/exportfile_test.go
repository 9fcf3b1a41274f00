package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// exportOf writes an export of some jobs.
func exportOf(t testing.TB, jobs ...jobdb.ExportedJob) string {
	t.Helper()
	var out bytes.Buffer
	w, err := newExportWriter(&out, "the test", len(jobs))
	for i := range jobs {
		err = errors.Join(err, w.write(&jobs[i]))
	}
	if err := errors.Join(err, w.end()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func exportedJob(id int64) jobdb.ExportedJob {
	at := time.Date(2026, 11, 25, 1, 2, 3, 4000000, time.UTC)
	return jobdb.ExportedJob{
		ID: id, Origin: fmt.Sprintf("there/%d", id), Queue: "support", Kind: "contact.created", State: jobdb.StateAvailable, Priority: 1,
		MaxAttempts: 20, CreatedAt: at, ScheduledAt: at, Args: []byte(`{"body":"<é\u2028>"}`),
	}
}

// readExport reads an export to its end, and returns how many jobs are before the error.
func readExport(r *exportReader) (header exportHeader, jobs []jobdb.ExportedJob, err error) {
	if header, err = r.header(); err != nil {
		return header, nil, err
	}
	for {
		p, err := r.batch()
		jobs = append(jobs, p.jobs...)
		if err != nil {
			return header, jobs, err
		}
	}
}

func TestExportIsRead(t *testing.T) {
	var written []jobdb.ExportedJob
	for id := range int64(importBatchJobs + 1) {
		written = append(written, exportedJob(id+1))
	}
	text := exportOf(t, written...)
	header, jobs, err := readExport(newExportReader(strings.NewReader(text)))
	if !errors.Is(err, io.EOF) || header.Source != "the test" || header.Jobs != len(written) {
		t.Errorf("read the header %+v, and then the error %v", header, err)
	}
	if again := exportOf(t, jobs...); strings.SplitN(again, "\n", 2)[1] != strings.SplitN(text, "\n", 2)[1] {
		t.Error("what was read is not what was written")
	}
	if !strings.Contains(text, `"args":{"body":"<é\u2028>"}`) {
		t.Error("the args were rewritten")
	}
}

func TestMalformedExport(t *testing.T) {
	whole := exportOf(t, exportedJob(1), exportedJob(2))
	lines := strings.SplitAfter(whole, "\n")
	for name, test := range map[string]struct {
		text string
		jobs int
		want string
	}{
		"nothing":             {"", 0, "this is no export"},
		"other JSON":          {"{}\n", 0, "this is no export"},
		"without a header":    {lines[1] + lines[3], 0, "this is no export"},
		"newer version":       {strings.Replace(whole, `"version":1`, `"version":2,"new":true`, 1), 0, "line 1: the export has version 2, and this Caddy reads version 1"},
		"cut off":             {lines[0] + lines[1], 1, "line 3: the export ends too early"},
		"cut off in a line":   {lines[0] + lines[1] + lines[2][:30], 1, "line 3: the export ends too early"},
		"a line is missing":   {lines[0] + lines[2] + lines[3], 1, "line 3: the export had 2 jobs, and 1 are here"},
		"more after the end":  {whole + whole, 2, "line 4: something follows the end"},
		"an empty line":       {lines[0] + "\n" + lines[1], 0, "line 2: it is no job"},
		"unknown field":       {strings.Replace(whole, `"priority":1`, `"priorty":1`, 1), 0, `line 2: it is no job: json: unknown field "priorty"`},
		"wrong type":          {strings.Replace(whole, `"priority":1`, `"priority":"SECRET"`, 1), 0, `line 2: field "priority" must not be a string`},
		"two objects":         {lines[0] + lines[1] + "{} " + lines[2], 1, "line 3: it has more than one object"},
		"not UTF-8":           {strings.Replace(whole, "é", "\xff", 1), 0, "line 2: it is not UTF-8"},
		"too long":            {lines[0] + lines[1] + `{"kind":"` + strings.Repeat("x", 100_000), 1, "line 3: the line is longer"},
		"a header in between": {lines[0] + lines[1] + whole, 1, "line 3: it is no job"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newExportReader(strings.NewReader(test.text))
			r.maxLine = 80_000
			_, jobs, err := readExport(r)
			if len(jobs) != test.jobs || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("read %d jobs, and then %v; want %d and %q", len(jobs), err, test.jobs, test.want)
			}
		})
	}
}

func FuzzExport(f *testing.F) {
	f.Add([]byte(exportOf(f, exportedJob(1), exportedJob(2))))
	f.Add([]byte(exportOf(f)))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newExportReader(bytes.NewReader(text))
		r.maxLine = 1 << 10
		_, jobs, err := readExport(r)
		if len(jobs) > bytes.Count(text, []byte("\n")) {
			t.Errorf("read %d jobs of %q", len(jobs), text)
		}
		if !errors.Is(err, io.EOF) {
			return
		}
		_, again, err := readExport(newExportReader(strings.NewReader(exportOf(t, jobs...))))
		if !errors.Is(err, io.EOF) || len(again) != len(jobs) {
			t.Errorf("read %d jobs, and %d (%v) when they are written again", len(jobs), len(again), err)
		}
	})
}
