package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// probeInterval is the shortest time between the beginnings of two probes.
	probeInterval = time.Second

	// probeTimeout bounds a probe. Those who ask need not wait as long.
	probeTimeout = 3 * time.Second

	// probeMemory is the memory, in bytes, that storing a large notification takes.
	probeMemory = 64 << 10
)

var errNotOpen = errors.New("the database is not open yet")

// Ready implements intercomwebhook.Queue.
func (b *queueBase) Ready(ctx context.Context) error {
	err := errNotOpen
	select {
	case <-b.attachment.acquired:
		err = b.attachment.dispatcher.storable(ctx)
	default:
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", b.attachment.location.name, err)
	}
	return nil
}

// storable returns nil if a notification could be stored now.
func (d *dispatcher) storable(ctx context.Context) error {
	if err := d.ready(); err != nil {
		return err
	}
	if err := d.store.available(); err != nil {
		return err
	}
	p := d.prober.current(d.db.Probe)
	if p == nil {
		return errStoreClosed
	}
	select {
	case <-p.ended:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// available returns an error if a notification would be refused before it comes to the
// database.
func (s *store) available() error {
	select {
	case <-s.stopped:
		return errStoreClosed
	default:
	}
	if !s.memory.TryAcquire(probeMemory) {
		return errNoMemory
	}
	s.memory.Release(probeMemory)
	return nil
}

// prober shares probes of the database among all who ask.
type prober struct {
	mu     sync.Mutex
	last   *probe
	closed bool
}

// probe is one attempt to write to the database.
type probe struct {
	began time.Time
	ended chan struct{} // closed when err is set
	err   error
}

// current returns the last probe, or begins another one if that is old. It returns nil after
// close.
func (p *prober) current(do func(context.Context) error) *probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil
	case p.last != nil && (p.last.running() || time.Since(p.last.began) < probeInterval):
		return p.last
	}
	latest := &probe{began: time.Now(), ended: make(chan struct{})}
	p.last = latest
	go func() {
		defer close(latest.ended)
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		latest.err = do(ctx)
	}()
	return latest
}

func (p *probe) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// close returns when no probe is running any more, and prevents further ones.
func (p *prober) close() {
	p.mu.Lock()
	p.closed = true
	last := p.last
	p.mu.Unlock()
	if last != nil {
		<-last.ended
	}
}
