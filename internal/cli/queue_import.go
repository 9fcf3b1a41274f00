package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

func newQueueImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import <file> --config <file>",
		Short: "Reads what 'queue export' has written into another database",
		Long: `
Stores the jobs of an export in the database that a config names. Jobs that are there
already are left as they are, whether they were imported earlier or Intercom has sent
them again meanwhile. So nothing is there twice, however often the command is run: if it
was interrupted, run it again, and it goes on. The file - is stdin.

It needs no running Caddy. It opens the database itself, and creates it if need be:

  - PostgreSQL may be in use. The Caddys that use it begin to deliver what arrives at
    once. New notifications are stored at the same time.
  - A SQLite file must be free. Stop its Caddy first, and start it afterwards. Run the
    command as the user that Caddy runs as, so that the files belong to that user.

Jobs belong to the endpoint that they were stored by: the name in the block of the queue.
If no handler of the config has or adopts it, a warning says so, because then nobody
delivers them. The lanes may be others: what a lane has that is no more goes where the
routes of the config lead.

The jobs are stored in batches. Each is durable before the next one begins. On a terminal,
a line shows the progress. At the end there is a summary by state; with --json, it is one
object. The exit code is 0 if all jobs are there, 1 if not, and 2 if the command was used
wrongly.

Examples:

	$ caddy intercom-webhook queue import queue.ndjson --config /etc/caddy/Caddyfile

	$ caddy intercom-webhook queue export --config Caddyfile.old |
		caddy intercom-webhook queue import - --config /etc/caddy/Caddyfile
`,
	}
	return onDatabase(cmd, cobra.ExactArgs(1), runQueueImport)
}

func runQueueImport(ctx context.Context, d *databaseRun, args []string) error {
	database, err := d.database()
	if err != nil {
		return err
	}
	in := d.cmd.InOrStdin()
	if name := args[0]; name != "-" {
		file, err := os.Open(name) //nolint:gosec // named by the user
		if err != nil {
			return usageError{err}
		}
		defer file.Close()
		in = file
	} else if isTerminal(in) {
		return usagef("stdin is a terminal: name the file, or pipe an export in")
	}
	report, hide := d.moving("imported")
	done, err := database.Import(ctx, in, report)
	hide()
	d.warn(done)
	if err != nil {
		return done.endedEarly(ctx, err, fmt.Sprintf("%s of %s are there now, and the same command goes on from there",
			comma(done.Imported+done.There), atLeast(done.Total, done.Jobs)))
	}
	if err := done.printImported(d.cmd.OutOrStdout(), d.flags.Bool("json")); err != nil {
		return err
	}
	if done.Refused > 0 {
		return fmt.Errorf("%s could not be imported", count(done.Refused, "job"))
	}
	return nil
}

// atLeast writes how many jobs there are, of which so many were read.
func atLeast(total, read int) string {
	if total < read {
		return "at least " + count(read, "job")
	}
	return count(total, "job")
}

// warn tells what a person should look at.
func (d *databaseRun) warn(m QueueMove) {
	for _, refusal := range m.Refusals {
		fmt.Fprintln(d.cmd.ErrOrStderr(), escape(refusal))
	}
	if len(m.Undelivered) > 0 {
		fmt.Fprintf(d.cmd.ErrOrStderr(), "warning: no handler of the config delivers the jobs of %s: give a queue this name with `name`, or with `adopt`\n",
			escape(strings.Join(m.Undelivered, ", ")))
	}
}

func (m QueueMove) printImported(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Database    string         `json:"database"`
			Imported    int            `json:"imported"`
			There       int            `json:"already_there"`
			Refused     int            `json:"refused"`
			States      map[string]int `json:"states"`
			Undelivered []string       `json:"endpoints_without_handler,omitempty"`
		}{m.Database, m.Imported, m.There, m.Refused, m.States, m.Undelivered})
	}
	if err := m.printStates(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "imported %s into %s; %s were there already\n", count(m.Imported, "job"), m.Database, comma(m.There))
	return err
}
