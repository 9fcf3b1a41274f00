package queue

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	exportFormat  = "intercom_webhook queue"
	exportVersion = 1

	// maxExportLine bounds a line, in bytes. JSON makes up to six bytes of one of a body.
	maxExportLine = 128 << 20

	// A batch has so many jobs at most, and ends with the job that exceeds the bytes.
	importBatchJobs  = 500
	importBatchBytes = 8 << 20
)

// exportHeader is the first line of an export.
type exportHeader struct {
	Format     string    `json:"format"`
	Version    int       `json:"version"`
	Source     string    `json:"source"` // for people
	ExportedAt time.Time `json:"exported_at"`
	Jobs       int       `json:"jobs"` // about, if the database is in use
}

// exportEnd is the last line of an export.
type exportEnd struct {
	Exported int `json:"exported"`
}

// exportWriter writes an export.
type exportWriter struct {
	out  *bufio.Writer
	line bytes.Buffer
	jobs int
}

func newExportWriter(to io.Writer, source string, jobs int) (*exportWriter, error) {
	w := &exportWriter{out: bufio.NewWriterSize(to, 1<<16)}
	return w, w.writeLine(exportHeader{exportFormat, exportVersion, source, time.Now().UTC().Truncate(time.Second), jobs})
}

func (w *exportWriter) write(job *jobdb.ExportedJob) error {
	w.jobs++
	if err := w.writeLine(job); err != nil {
		return fmt.Errorf("job %d: %w", job.ID, err)
	}
	return nil
}

func (w *exportWriter) end() error {
	if err := w.writeLine(exportEnd{w.jobs}); err != nil {
		return err
	}
	return w.out.Flush()
}

func (w *exportWriter) writeLine(value any) error {
	w.line.Reset()
	encoder := json.NewEncoder(&w.line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	if w.line.Len() > maxExportLine {
		return errExportLine
	}
	_, err := w.out.Write(w.line.Bytes())
	return err
}

var (
	errExportLine   = fmt.Errorf("the line is longer than %d MiB", maxExportLine>>20)
	errNoExport     = errors.New("this is no export: give a file that 'caddy intercom-webhook queue export' has written")
	errExportCutOff = errors.New("the export ends too early, so jobs are missing: export again, and import that")
)

// exportReader reads an export. Nothing in it is trusted. All errors name the line.
type exportReader struct {
	in      *bufio.Reader
	maxLine int
	line    int // the number of the last line that was read
	jobs    int // that were read
}

func newExportReader(from io.Reader) *exportReader {
	return &exportReader{in: bufio.NewReaderSize(from, 1<<16), maxLine: maxExportLine}
}

// header reads the first line.
func (r *exportReader) header() (header exportHeader, err error) {
	text, err := r.readLine()
	switch {
	case errors.Is(err, errExportCutOff) || errors.Is(err, errExportLine):
		return header, errNoExport
	case err != nil:
		return header, err
	}
	// a newer version may have other fields
	if err := json.Unmarshal(text, &header); err != nil || header.Format != exportFormat {
		return header, errNoExport
	}
	if header.Version != exportVersion {
		return header, r.errorf("the export has version %d, and this Caddy reads version %d: import it with the version of Caddy that has written it, or a newer one",
			header.Version, exportVersion)
	}
	return header, nil
}

// importBatch is jobs to be imported together, and their lines, by id.
type importBatch struct {
	jobs  []jobdb.ExportedJob
	lines map[int64]int
}

// batch reads as many jobs as may be in memory. The error is io.EOF if these are the last
// ones. If it is another, the jobs are those before the line that is wrong.
func (r *exportReader) batch() (b importBatch, err error) {
	b.lines = make(map[int64]int)
	for size := 0; len(b.jobs) < importBatchJobs && size < importBatchBytes; {
		text, err := r.readLine()
		if err != nil {
			return b, err
		}
		var line struct {
			jobdb.ExportedJob
			Exported *int `json:"exported"`
		}
		if err := decodeStrictly(text, &line); err != nil {
			return b, r.errorf("%w", err)
		}
		if line.Exported != nil {
			return b, r.readEnd(*line.Exported)
		}
		r.jobs++
		size += len(text)
		b.jobs = append(b.jobs, line.ExportedJob)
		b.lines[line.ID] = r.line
	}
	return b, nil
}

// readEnd returns io.EOF if the export is whole and nothing follows it.
func (r *exportReader) readEnd(exported int) error {
	if exported != r.jobs {
		return r.errorf("the export had %d jobs, and %d are here: lines were removed or added", exported, r.jobs)
	}
	if _, err := r.in.Peek(1); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("something follows the end of the export")
		}
		return r.errorf("%w", err)
	}
	return io.EOF
}

// readLine reads a line, which must have an end.
func (r *exportReader) readLine() (text []byte, err error) {
	r.line++
	for {
		part, err := r.in.ReadSlice('\n')
		switch {
		case len(text)+len(part) > r.maxLine:
			return nil, r.errorf("%w", errExportLine)
		case err == nil && text == nil:
			return part, nil // valid until the next one is read
		}
		text = append(text, part...)
		switch {
		case err == nil:
			return text, nil
		case errors.Is(err, io.EOF):
			return nil, r.errorf("%w", errExportCutOff)
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, r.errorf("%w", err)
		}
	}
}

func (r *exportReader) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", r.line, fmt.Errorf(format, args...))
}

// decodeStrictly decodes one JSON object that has known fields only. Its errors do not quote
// a body.
func decodeStrictly(text []byte, to any) error {
	if !utf8.Valid(text) {
		return errors.New("it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(to)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("field %q must not be a %s", strings.TrimPrefix(wrong.Field, "ExportedJob."), wrong.Value)
	}
	if err != nil {
		return fmt.Errorf("it is no job: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it has more than one object")
	}
	return nil
}
