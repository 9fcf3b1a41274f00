package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func newQueueShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show <notification or job id>",
		Short: "Shows the life of a notification, attempt by attempt",
		Long: `
Shows everything that is known of a notification: when it came and from where, its state,
every attempt that failed with the backend's answer, and when the next one is due. It is
found by the id that Intercom gave it (notif_…), or by the number of its job. With the id
of a notification, its copies are shown, too.

With --headers, the headers are printed with which it came; with --body, its body, where
JSON is indented. They hold what your customers wrote, and the signature.

Examples:

	$ caddy intercom-webhook queue show notif_6e8f7a52-8be1-4c21-a1a5-5f7ed9b0a6d5

	$ caddy intercom-webhook queue show 4711 --body --headers
`,
	}
	cmd.Flags().Bool("body", false, "Print the body, too")
	cmd.Flags().Bool("headers", false, "Print the headers of the request, too")
	return onQueue(cmd, cobra.ExactArgs(1), runQueueShow)
}

// jobDetails is everything that is known of a job.
type jobDetails struct {
	job
	Attempts   []attempt            `json:"attempts"` // those that failed
	Request    *notificationRequest `json:"request"`
	Unreadable string               `json:"unreadable"` // why there is no request
}

type attempt struct {
	Attempt      int       `json:"attempt"`
	At           time.Time `json:"at"`
	Instance     string    `json:"instance"`
	Upstream     string    `json:"upstream"`
	Status       int       `json:"status"`
	Seconds      float64   `json:"seconds"`
	Error        string    `json:"error"`
	Answer       string    `json:"answer"`
	AnswerBase64 []byte    `json:"answer_base64"` // in place of the answer if it is not text
}

func runQueueShow(ctx context.Context, q *queueRun, args []string) error {
	out := q.cmd.OutOrStdout()
	n := 0
	err := eachLine(q.admin.get(ctx, "jobs/"+url.PathEscape(args[0]), q.scope(make(url.Values))), func(j jobDetails, line json.RawMessage) error {
		if q.json {
			q.print(line)
			return nil
		}
		if n++; n > 1 {
			fmt.Fprintln(out)
		}
		return j.report(out, q.flags.Bool("headers"), q.flags.Bool("body"))
	})
	var answer *adminError
	if errors.As(err, &answer) && answer.status == http.StatusNotFound {
		return q.withNearestID(ctx, err, args[0])
	}
	return err
}

// withNearestID adds to the error for an id the one that is probably meant, if there is one.
func (q *queueRun) withNearestID(ctx context.Context, err error, id string) error {
	if nearest := q.nearestID(ctx, id); nearest != "" {
		return fmt.Errorf("%w; did you mean %s?", err, nearest)
	}
	return err
}

// nearestID returns the id among those of the newest notifications that is probably meant by
// one that is not among them; empty if there is none.
func (q *queueRun) nearestID(ctx context.Context, id string) string {
	var known []string
	_, err := q.jobs(ctx, make(url.Values), maxPage, func(j job, _ json.RawMessage) error {
		known = append(known, j.Notification)
		return nil
	})
	if err != nil || len(known) == 0 || slices.Contains(known, id) {
		return ""
	}
	if start := slices.IndexFunc(known, func(other string) bool { return strings.HasPrefix(other, id) }); start >= 0 {
		return escape(known[start])
	}
	nearest := intercom.Nearest(id, known, 1)[0]
	if 4*levenshtein.ComputeDistance(id, nearest) > len(id) { // ids are random, so others are half as near
		return ""
	}
	return escape(nearest)
}

// report prints everything about a job.
func (j *jobDetails) report(out io.Writer, headers, body bool) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, escape(text))
		}
	}
	line("notification", cmp.Or(j.Notification, "(without id)"))
	line("topic", j.Topic)
	line("workspace", j.Workspace)
	line("job", fmt.Sprint(j.ID))
	line("queue", j.Queue)
	line("lane", j.Lane)
	line("sent to", j.To)
	line("state", fmt.Sprintf("%s, attempt %d of %d", j.State, j.Attempt, j.MaxAttempts))
	line("stored", localTime(j.StoredAt))
	line("next attempt", localTime(j.NextAttemptAt))
	line("finished", localTime(j.FinishedAt))
	if isDead(j.State) {
		line("reason", j.Reason)
	}
	if r := j.Request; r != nil {
		line("request", fmt.Sprintf("%s %s, host %s, %s, from %s, %s bytes", r.Method, r.URI, r.Host, r.Proto, r.RemoteAddr, comma(len(r.body()))))
	}
	line("unreadable", j.Unreadable)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, a := range j.Attempts {
		a.report(out)
	}
	if r := j.Request; r != nil && headers {
		fmt.Fprintln(out, "\nheaders")
		for _, name := range slices.Sorted(maps.Keys(r.Header)) {
			for _, value := range r.Header[name] {
				fmt.Fprintf(out, "  %s: %s\n", escape(name), escape(value))
			}
		}
	}
	if r := j.Request; r != nil && body {
		fmt.Fprintf(out, "\nbody\n%s\n", prettyBody(r.body()))
	}
	return nil
}

// report prints what came of an attempt, and what the backend answered.
func (a *attempt) report(out io.Writer) {
	fmt.Fprintf(out, "\nattempt %d, %s", a.Attempt, cmp.Or(localTime(a.At), "at an unknown time"))
	if a.Instance != "" {
		fmt.Fprintf(out, ", by %s", escape(a.Instance))
	}
	fmt.Fprintln(out)
	if a.Upstream != "" || a.Status != 0 {
		status := "no answer"
		if a.Status != 0 {
			status = statusText(a.Status)
		}
		fmt.Fprintf(out, "  %s from %s in %s\n", status, escape(cmp.Or(a.Upstream, "the route")), seconds(a.Seconds))
	}
	fmt.Fprintf(out, "  error: %s\n", escape(a.Error))
	if answer := cmp.Or(a.Answer, string(a.AnswerBase64)); answer != "" {
		fmt.Fprintf(out, "  answer: %s\n", escape(answer))
	}
}

func seconds(s float64) time.Duration {
	return roundTime(time.Duration(s * float64(time.Second)))
}
