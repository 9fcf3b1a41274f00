package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

func newQueueExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export --config <file>",
		Short: "Writes all jobs of a queue's database, for another database",
		Long: `
Writes all jobs of the database that a config names: those that wait, delivered ones and
dead letters, with their attempts, and with what duplicates are recognized by. 'queue
import' reads it into another database, SQLite or PostgreSQL.

It needs no running Caddy. It opens the database itself, and leaves everything in it:

  - A SQLite file must be free. First reload its Caddy with another queue, or stop it. After
    a reload, Caddy ends its running deliveries before the file is free. Run the command
    as the user that Caddy runs as: the file belongs to that user, and the default path is
    in that user's data directory.
  - PostgreSQL may be in use. But a job that a Caddy delivers after its export is delivered
    again by a Caddy that imports it. So no Caddy should use it any more.

There is one JSON object a line: a header with version and source, the jobs, and an end,
by which import knows that nothing is missing. Without --output, they go to stdout.

The notifications are personal data. Keep the file as carefully as the database, and
delete it when it is imported. With --output, only its owner can read it. It appears
under its name when it is complete; before that, its name ends with .part.

On a terminal, a line shows the progress. At the end, there is a summary by state: on
stdout with --output, or else on stderr. With --json, it is one object. The exit code is 0
if all jobs are exported, 1 if not, and 2 if the command was used wrongly.

Examples:

	$ caddy intercom-webhook queue export --config Caddyfile.old --output queue.ndjson

	$ caddy intercom-webhook queue export --config Caddyfile.old |
		caddy intercom-webhook queue import - --config /etc/caddy/Caddyfile
`,
	}
	cmd.Flags().StringP("output", "o", "", "File to write to, which must not exist (default stdout)")
	return onDatabase(cmd, cobra.NoArgs, runQueueExport)
}

func runQueueExport(ctx context.Context, d *databaseRun, _ []string) error {
	name := d.flags.String("output")
	out, summary := d.cmd.OutOrStdout(), d.cmd.ErrOrStderr()
	if name == "" && isTerminal(out) {
		return usagef("bodies of notifications are not for a terminal: give --output, or pipe the output")
	}
	database, err := d.database()
	if err != nil {
		return err
	}
	write := func(export func(io.Writer) error) error { return export(out) }
	if name != "" {
		summary = out
		write = func(export func(io.Writer) error) error { return writePrivately(name, export) }
	}
	report, hide := d.moving("exported")
	var done QueueMove
	err = write(func(to io.Writer) (err error) {
		done, err = database.Export(ctx, to, report)
		hide()
		return err
	})
	if err != nil {
		return done.endedEarly(ctx, err, "the export is not complete: run it again")
	}
	return done.printExported(summary, name, d.flags.Bool("json"))
}

func (m QueueMove) printExported(w io.Writer, file string, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Database string         `json:"database"`
			Exported int            `json:"exported"`
			States   map[string]int `json:"states"`
		}{m.Database, m.Jobs, m.States})
	}
	if err := m.printStates(w); err != nil {
		return err
	}
	what := "exported " + count(m.Jobs, "job") + " from " + m.Database
	if file != "" {
		what += " to " + file
	}
	_, err := fmt.Fprintln(w, what)
	return err
}

// writePrivately writes a file that only its owner can read. It has its name when all of it
// is on the disk.
func writePrivately(name string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(name); err == nil {
		return usagef("%s exists: give --output another name, or remove it", name)
	}
	part := name + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an export that was killed
		return err
	}
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // named by the user
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(part)
		}
	}()
	if err := write(file); err != nil {
		return err
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(part, name)
}
