package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// connectionCount is how many connections closed loops have, and the anchor callers.
const connectionCount = 64

// bench measures one engine.
type bench struct {
	options
	engine   string
	appended float64 // per second
	figures  []*figure
}

func newBench(o options, engine string) *bench { return &bench{options: o, engine: engine} }

// rig is what one row is measured with: fresh processes and a fresh store.
type rig struct {
	*bench
	*gateway
	build   int // which of the builds the gateway is
	backend *backend
	row     string
	bare    float64 // requests per second of the bare reverse_proxy, measured before the row
}

// row measures one row of the table, or several that come of the same load.
type row struct {
	name    string
	measure func(*rig, context.Context) error
}

var rows = []row{
	{"sync", (*rig).syncRow},
	{"together", (*rig).togetherRow},
	{"backlog", (*rig).backlogRow},
	{"burst", (*rig).burstRow},
	{"quiet", (*rig).quietRow},
	{"fair", (*rig).fairRow},
	{"stock", (*rig).stockRow},
	{"kills", (*rig).killsRow},
}

func rowNames() (names []string) {
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// run measures the selected rows: in each round each row with all builds one after the
// other, in the other order every second time. A row that fails does not keep the others
// from being measured.
func (b *bench) run(ctx context.Context, selected []string) (failed error) {
	var err error
	if b.appended, err = appendToFile(b.dir, sized(b, 2*time.Second, time.Second)); err != nil {
		return err
	}
	for round := range b.rounds {
		for _, r := range rows {
			if !slices.Contains(selected, r.name) {
				continue
			}
			for i := range b.gateways {
				if ctx.Err() != nil {
					return errors.Join(failed, ctx.Err())
				}
				if round%2 == 1 {
					i = len(b.gateways) - 1 - i
				}
				began := time.Now()
				if err := b.measure(ctx, i, r); err != nil {
					failed = errors.Join(failed, fmt.Errorf("%s, build %d, round %d: %w", r.name, i+1, round+1, err))
				}
				fmt.Fprintf(os.Stderr, "%s: round %d of %d, %s, build %d: %s\n", b.engine, round+1, b.rounds, r.name, i+1, short(time.Since(began)))
			}
		}
	}
	return failed
}

// measure measures a row with a fresh rig, of which nothing stays.
func (b *bench) measure(ctx context.Context, build int, of row) (err error) {
	backend, err := startBackend(ctx)
	if err != nil {
		return err
	}
	defer backend.end()
	g, err := b.newGateway(ctx, b.gateways[build], backend.Address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.remove()) }()
	if _, err := g.launch(ctx); err != nil {
		return err
	}
	r := &rig{bench: b, gateway: g, build: build, backend: backend, row: of.name}
	if r.bare, err = r.rate(ctx, barePath, sized(b, 3*time.Second, time.Second)); err != nil {
		return err
	}
	r.add("bare `reverse_proxy`", perSecond, r.bare)
	if err := of.measure(r, ctx); err != nil {
		return fmt.Errorf("%w (the gateway's log ends with: %s)", err, g.lastWords())
	}
	return nil
}

// sized chooses between the size of a whole run and that of a short one.
func sized[T any](b *bench, whole, short T) T {
	if b.short {
		return short
	}
	return whole
}

// closed sends on all connections, each when its last request is answered.
func (r *rig) closed(ctx context.Context, path string, lasting time.Duration, count int) (sent, error) {
	return send(ctx, sending{Address: r.address, Path: path, Connections: connectionCount, Duration: lasting, Count: uint64(count)})
}

// rate measures the rate of a path that is answered by the backend, after a short load that
// warms up.
func (r *rig) rate(ctx context.Context, path string, lasting time.Duration) (float64, error) {
	if _, err := r.closed(ctx, path, time.Second, 0); err != nil {
		return 0, err
	}
	if _, err := r.backend.tell(ctx, "/reset"); err != nil {
		return 0, err
	}
	s, err := r.closed(ctx, path, lasting, 0)
	if err != nil {
		return 0, err
	}
	t, err := r.backend.tell(ctx, "/count")
	if err == nil && t.Deliveries != s.OK {
		err = fmt.Errorf("%d were answered with 200, but %d delivered", s.OK, t.Deliveries)
	}
	_, reset := r.backend.tell(ctx, "/reset")
	return s.perSecond(), errors.Join(err, reset)
}

// profiled writes a profile of so long, if one is asked for, while measure runs.
func (r *rig) profiled(ctx context.Context, lasting time.Duration, measure func() error) error {
	if r.profile == "" {
		return measure()
	}
	written := make(chan error, 1)
	go func() {
		written <- r.writeProfile(ctx, lasting, fmt.Sprintf("%s.%s.%s.%d", r.profile, r.bench.engine, r.row, r.build+1))
	}()
	err := measure()
	return errors.Join(err, <-written)
}

// warmUp sends to the queue for a while, so that connections and buffers are there.
func (r *rig) warmUp(ctx context.Context) error {
	s, err := r.closed(ctx, queuePath, sized(r.bench, 2*time.Second, time.Second), 0)
	if err != nil {
		return err
	}
	if _, err := r.backend.wait(ctx, s.OK); err != nil {
		return err
	}
	_, err = r.backend.tell(ctx, "/reset")
	return err
}
