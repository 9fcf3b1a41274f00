package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// maxRows is how many rows a statement changes at most, so that no lock is held for long.
const maxRows = 1000

// released gives a delivery back: its claim was no attempt. One that had attempts was
// retrying, and its time has come already.
const released = `state = CASE WHEN attempts = 0 THEN 'waiting' ELSE 'retrying' END, claim = NULL, instance = NULL`

// finishSQL ends claims, and writes down the failed attempts. Who is delivering has a claim
// and an instance, and nobody else; the state is not asked for, as the key finds the rows, and
// not the index of what is delivering.
const finishSQL = `
	WITH outcome AS MATERIALIZED (
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::boolean[],
				$7::timestamptz[], $8::text[], $9::text[], $10::int[], $11::real[], $12::text[], $13::bytea[])
			AS o(id, claim, state, reason, delay, attempted, at, instance, upstream, status, seconds, error, answer)
	), finished AS (
		UPDATE {s}delivery AS d SET
			state = CASE WHEN o.state <> 'waiting' THEN o.state WHEN d.attempts = 0 THEN 'waiting' ELSE 'retrying' END,
			reason = nullif(o.reason, ''),
			attempts = d.attempts + CASE WHEN o.attempted THEN 1 ELSE 0 END,
			due_at = CASE WHEN o.state = 'retrying' THEN now() + o.delay * interval '1 microsecond' ELSE d.due_at END,
			claim = NULL,
			instance = NULL,
			finished_at = CASE WHEN o.state IN ('delivered', 'dead') THEN now() END,
			upstream = CASE WHEN o.attempted THEN nullif(o.upstream, '') ELSE d.upstream END,
			status = CASE WHEN o.attempted THEN nullif(o.status, 0) ELSE d.status END,
			seconds = CASE WHEN o.attempted THEN o.seconds ELSE d.seconds END,
			error = CASE WHEN o.attempted THEN nullif(o.error, '') ELSE d.error END
		FROM outcome AS o
		WHERE d.id = o.id AND d.instance = $14::text AND d.claim = o.claim
		RETURNING d.id, o.claim
	), logged AS (
		INSERT INTO {s}attempt (delivery, at, instance, upstream, status, seconds, error, answer)
		SELECT o.id, greatest(o.at, (SELECT max(at) + interval '1 microsecond' FROM {s}attempt WHERE delivery = o.id)), o.instance, nullif(o.upstream, ''), nullif(o.status, 0), o.seconds, o.error, o.answer
		FROM outcome AS o JOIN finished USING (id, claim) WHERE o.error <> ''
		ON CONFLICT DO NOTHING
	)
	SELECT id FROM finished`

var errState = errors.New("a claim cannot end in this state")

// finishing are outcomes by columns.
type finishing struct {
	ids, claims     []int64
	states, reasons []string
	delays          []int64
	attempted       []bool
	attempts        attemptColumns
}

// attemptColumns are attempts by columns. Places and numbers say to which delivery each
// belongs, where that has no id yet.
type attemptColumns struct {
	places, numbers      []int64
	at                   []time.Time
	instances, upstreams []string
	statuses             []int32
	seconds              []float32
	errors               []string
	answers              [][]byte
}

func (c *attemptColumns) add(place, number int64, a db.Attempt) {
	c.places = append(c.places, place)
	c.numbers = append(c.numbers, number)
	c.at = append(c.at, a.At)
	c.instances = append(c.instances, db.EncodeText(a.Instance))
	c.upstreams = append(c.upstreams, db.EncodeText(a.Upstream))
	c.statuses = append(c.statuses, int32(a.Status))
	c.seconds = append(c.seconds, float32(a.Duration.Seconds()))
	c.errors = append(c.errors, db.EncodeText(a.Error))
	c.answers = append(c.answers, a.Answer)
}

// args are the columns but for places and numbers.
func (c *attemptColumns) args() []any {
	return []any{c.at, c.instances, c.upstreams, c.statuses, c.seconds, c.errors, c.answers}
}

func newFinishing(outcomes []db.Outcome) (*finishing, error) {
	f := new(finishing)
	for _, o := range outcomes {
		if o.State == db.Delivering || !slices.Contains(db.States, o.State) {
			return nil, fmt.Errorf("finishing: %w: %s", errState, o.State)
		}
		made, attempted := o.Attempt, o.Attempt != nil && o.State != db.Waiting
		if !attempted {
			made = new(db.Attempt)
		}
		if o.State != db.Dead {
			o.Reason = ""
		}
		f.ids = append(f.ids, o.ID)
		f.claims = append(f.claims, int64(o.Token))
		f.states = append(f.states, string(o.State))
		f.reasons = append(f.reasons, string(o.Reason))
		f.delays = append(f.delays, o.Delay.Microseconds())
		f.attempted = append(f.attempted, attempted)
		f.attempts.add(0, 0, *made)
	}
	return f, nil
}

func (f *finishing) args(instance string) []any {
	return slices.Concat([]any{f.ids, f.claims, f.states, f.reasons, f.delays, f.attempted}, f.attempts.args(), []any{instance})
}

// batches yields rows in order, maxRows at once.
func batches[T any](rows []T, compare func(a, b T) int) iter.Seq[[]T] {
	return slices.Chunk(slices.SortedFunc(slices.Values(rows), compare), maxRows)
}

func compareIDs(a, b int64) int { return cmp.Compare(a, b) }
