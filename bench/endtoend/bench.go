package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/load"
)

// connectionCount is how many connections closed loops have, and the anchor callers.
const connectionCount = 64

// bench measures one engine.
type bench struct {
	options
	engine, dir, program string
	bare                 []float64 // requests per second, measured first and last
	appended             float64   // per second
	results              []result
}

// rig is what one row is measured with: fresh processes and a fresh store.
type rig struct {
	*bench
	*gateway
	backend *backend
	row     string
}

// row measures one row of the table, or several that come of the same load.
type row struct {
	name    string
	measure func(*rig, context.Context) error
}

var rows = []row{
	{"together", (*rig).togetherRow},
	{"backlog", (*rig).backlogRow},
	{"arrivals", (*rig).arrivalsRow},
	{"quiet", (*rig).quietRow},
	{"turns", (*rig).turnsRow},
	{"stock", (*rig).stockRow},
	{"kills", (*rig).killsRow},
}

func rowNames() (names []string) {
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// run measures the selected rows. One that fails does not keep the others from being measured.
func (b *bench) run(ctx context.Context, selected []string) error {
	var err error
	if b.appended, err = appendToFile(b.dir, sized(b, 2*time.Second, time.Second)); err != nil {
		return err
	}
	if err := b.with(ctx, "bare", (*rig).measureBare); err != nil {
		return err
	}
	var failed error
	for _, r := range rows {
		if !slices.Contains(selected, r.name) || ctx.Err() != nil {
			continue
		}
		if err := b.with(ctx, r.name, r.measure); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(failed, b.with(ctx, "bare", (*rig).measureBare))
}

// with measures with a fresh rig, of which nothing stays.
func (b *bench) with(ctx context.Context, row string, measure func(*rig, context.Context) error) (err error) {
	backend, err := startBackend(ctx)
	if err != nil {
		return err
	}
	defer backend.end()
	g, err := b.newGateway(ctx, backend.Address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.remove()) }()
	if _, err := g.launch(ctx); err != nil {
		return err
	}
	if err := measure(&rig{bench: b, gateway: g, backend: backend, row: row}, ctx); err != nil {
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

// closed sends on all connections, each when its last one is answered.
func (r *rig) closed(ctx context.Context, path string, p load.Plan) (sent, error) {
	p.AtOnce = connectionCount
	s, err := send(ctx, sending{Address: r.address, Path: path, Plan: p})
	return s, errors.Join(err, s.err())
}

// mostAtOnce bounds how many connections open loops have. Gateways that keep up need few.
const mostAtOnce = 512

// open sends at a rate.
func (r *rig) open(ctx context.Context, rate float64, lasting time.Duration) (sent, error) {
	s, err := send(ctx, sending{Address: r.address, Path: queuePath, Plan: load.Plan{Rate: rate, Duration: lasting, AtOnce: mostAtOnce}})
	return s, errors.Join(err, s.err())
}

// profiled writes a profile of so long, if one is asked for, while measure runs.
func (r *rig) profiled(ctx context.Context, lasting time.Duration, measure func() error) error {
	if r.profile == "" {
		return measure()
	}
	written := make(chan error, 1)
	go func() {
		written <- r.writeProfile(ctx, lasting, fmt.Sprintf("%s.%s.%s", r.profile, r.bench.engine, r.row))
	}()
	err := measure()
	return errors.Join(err, <-written)
}

// warmUp sends for a while, so that connections and buffers are there.
func (r *rig) warmUp(ctx context.Context) error {
	s, err := r.closed(ctx, queuePath, load.Plan{Duration: sized(r.bench, 2*time.Second, time.Second)})
	if err != nil {
		return err
	}
	if _, err := r.backend.wait(ctx, s.OK); err != nil {
		return err
	}
	_, err = r.backend.tell(ctx, "/reset")
	return err
}
