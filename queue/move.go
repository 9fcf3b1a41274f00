package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/cli"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func init() {
	cli.FindQueueDatabase = findDatabase
}

// database is a database of a config that is not started, for the commands that take jobs
// from one database to another.
type database struct {
	location location
	handlers []*Options // of the handlers that use it
}

// findDatabase is cli.FindQueueDatabase.
func findDatabase(queues []json.RawMessage, name string) (cli.QueueDatabase, error) {
	var databases []*database
	var names []string
	for _, encoded := range queues {
		at, options, err := decodeQueue(encoded)
		if options != nil {
			names = append(names, options.Name)
		}
		switch {
		case err == nil:
		case options != nil && name != "" && options.Name != name:
			continue // for example, a variable of another queue is not set
		default:
			return nil, fmt.Errorf("queue: %w", err)
		}
		i := slices.IndexFunc(databases, func(d *database) bool { return d.location.key == at.key })
		if i < 0 {
			i = len(databases)
			databases = append(databases, &database{location: at})
		}
		databases[i].handlers = append(databases[i].handlers, options)
	}
	if name != "" {
		databases = slices.DeleteFunc(databases, func(d *database) bool {
			return !slices.ContainsFunc(d.handlers, func(o *Options) bool { return o.Name == name })
		})
	}
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(databases) == 1:
		return databases[0], nil
	case len(databases) == 0:
		return nil, fmt.Errorf("queue %q: the config has no queue of this name; the names are %s", name, option.Choices(name, names))
	case name == "" && len(names) > 1:
		return nil, fmt.Errorf("the config has queues in several databases: choose one with --queue; the names are %s", option.Enumerate(names))
	default:
		return nil, fmt.Errorf("the config has queues of the name %s in several databases: give them different names with `name` in their blocks", cmp.Or(name, names[0]))
	}
}

// decodeQueue decodes the queue of a handler, and returns where its database is. The options
// are nil if it cannot be decoded.
func decodeQueue(encoded json.RawMessage) (location, *Options, error) {
	var fields map[string]json.RawMessage
	var engine string
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return location{}, nil, err
	}
	if err := json.Unmarshal(fields["engine"], &engine); err != nil {
		return location{}, nil, errors.New("it has no engine")
	}
	delete(fields, "engine")
	own, err := json.Marshal(fields)
	if err != nil {
		return location{}, nil, err
	}
	var module interface{ location() (location, error) }
	var options *Options
	switch engine {
	case "sqlite":
		q := new(SQLite)
		module, options = q, &q.Options
	case "postgres":
		q := new(Postgres)
		module, options = q, &q.Options
	default:
		return location{}, nil, fmt.Errorf("engine %q can be neither exported nor imported: only sqlite and postgres can", engine)
	}
	if err := caddy.StrictUnmarshalJSON(own, module); err != nil {
		return location{}, nil, err
	}
	options.setDefaults()
	if err := options.check(); err != nil {
		return location{}, options, err
	}
	at, err := module.location()
	return at, options, err
}

// open opens the database, which no Caddy may have if it is a file.
func (d *database) open(ctx context.Context) (jobdb.DB, error) {
	db, err := d.location.open(ctx)
	switch {
	case errors.Is(err, jobdb.ErrLocked):
		return nil, fmt.Errorf("queue %s: a Caddy has it open: stop that Caddy, or reload it with another queue, and try again", d.location.name)
	case err != nil:
		return nil, fmt.Errorf("queue %s: %w", d.location.name, err)
	}
	return db, nil
}

// exportBatch is how many jobs are read at once.
const exportBatch = 500

// Export implements cli.QueueDatabase.
func (d *database) Export(ctx context.Context, to io.Writer, report func(cli.QueueMove)) (done cli.QueueMove, err error) {
	done = cli.QueueMove{Database: d.location.name, States: make(map[string]int)}
	if _, err := os.Stat(d.location.file); d.location.file != "" && errors.Is(err, fs.ErrNotExist) {
		return done, fmt.Errorf("queue %s: there is no such file: run the command as the user that Caddy runs as, or set path", d.location.name)
	}
	db, err := d.open(ctx)
	if err != nil {
		return done, err
	}
	defer func() { err = cmp.Or(err, db.Close()) }()
	for _, state := range slices.Concat(jobdb.UnfinishedStates, jobdb.FinishedStates) {
		counts, err := db.Count(ctx, state)
		if err != nil {
			return done, err
		}
		for _, n := range counts {
			done.Total += int(n)
		}
	}
	w, err := newExportWriter(to, d.location.name, done.Total)
	if err != nil {
		return done, err
	}
	for from := int64(0); ; {
		jobs, next, err := db.Export(ctx, from, exportBatch)
		if err != nil {
			return done, err
		}
		for i := range jobs {
			if err := w.write(&jobs[i]); err != nil {
				return done, err
			}
			done.Jobs++
			done.States[string(jobs[i].State)]++
		}
		report(done)
		if next == 0 {
			return done, w.end()
		}
		from = next
	}
}

// Import implements cli.QueueDatabase.
func (d *database) Import(ctx context.Context, from io.Reader, report func(cli.QueueMove)) (done cli.QueueMove, err error) {
	done = cli.QueueMove{Database: d.location.name, States: make(map[string]int)}
	r := newExportReader(from)
	header, err := r.header()
	if err != nil {
		return done, err // before the database is opened, and perhaps created
	}
	done.Total = header.Jobs
	db, err := d.open(ctx)
	if err != nil {
		return done, err
	}
	defer func() { err = cmp.Or(err, db.Close()) }()
	for ended := false; !ended; {
		batch, err := r.batch()
		if ended = errors.Is(err, io.EOF); ended {
			err = nil
		}
		// what precedes a line that is wrong is imported
		if err := cmp.Or(d.importBatch(ctx, db, batch, &done), err); err != nil {
			return done, err
		}
		report(done)
	}
	return done, nil
}

// maxRefusals is how many refused jobs are told of.
const maxRefusals = 10

// importBatch imports some jobs, and adds to done what came of them.
func (d *database) importBatch(ctx context.Context, db jobdb.DB, batch importBatch, done *cli.QueueMove) error {
	done.Jobs += len(batch.jobs)
	imported, there, err := db.Import(ctx, batch.jobs)
	done.Imported += int(imported)
	done.There += int(there)
	refused := make(map[int64]bool)
	if refusal, ok := errors.AsType[*jobdb.RefusedError](err); ok {
		for _, job := range refusal.Jobs {
			refused[job.ID] = true
			if done.Refused++; done.Refused <= maxRefusals {
				done.Refusals = append(done.Refusals, fmt.Sprintf("line %d: job %d was refused: %v", batch.lines[job.ID], job.ID, job.Err))
			}
		}
		err = nil
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", d.location.name, err)
	}
	for _, job := range batch.jobs {
		if refused[job.ID] {
			continue
		}
		done.States[string(job.State)]++
		endpoint, _ := splitRiverQueue(job.Queue)
		if !d.delivers(endpoint) && !slices.Contains(done.Undelivered, endpoint) {
			done.Undelivered = append(done.Undelivered, endpoint)
		}
	}
	return nil
}

// delivers reports whether a handler of the config delivers the notifications of an endpoint.
func (d *database) delivers(endpoint string) bool {
	return slices.ContainsFunc(d.handlers, func(o *Options) bool { return o.delivers(endpoint) })
}
