package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// syncRow measures the way without a queue, in pairs with the bare reverse_proxy.
func (r *rig) syncRow(ctx context.Context) error {
	const pairs = 3
	lasting := sized(r.bench, 2*time.Second, time.Second)
	for range pairs {
		bare, err := r.rate(ctx, barePath, lasting)
		if err != nil {
			return err
		}
		through, err := r.rate(ctx, syncPath, lasting)
		if err != nil {
			return err
		}
		r.add("synchronous path", ofBare, through/bare)
	}
	return nil
}

// togetherRow measures storing and delivering together: the rate at which the backend has
// taken all that is sent.
func (r *rig) togetherRow(ctx context.Context) error {
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	lasting := sized(r.bench, 10*time.Second, 2*time.Second)
	u, err := r.startUsage(ctx)
	if err != nil {
		return err
	}
	var s sent
	var t taken
	err = r.profiled(ctx, lasting, func() (err error) {
		if s, err = r.closed(ctx, queuePath, lasting, 0); err != nil {
			return err
		}
		t, err = r.backend.wait(ctx, s.OK)
		return err
	})
	if err != nil {
		return err
	}
	const what = "stored and delivered together"
	r.addRate(what, float64(s.OK)/t.Reached.Sub(s.Began).Seconds())
	r.add(what+", answers p50", milliseconds, inMilliseconds(s.P50))
	r.add(what+", answers p99", milliseconds, inMilliseconds(s.P99))
	if err := r.addUsage(ctx, what, u, s.OK); err != nil {
		return err
	}
	return r.addMemory("most memory at 64 connections")
}

// backlogRow measures working off what was stored while the backend hung.
func (r *rig) backlogRow(ctx context.Context) error {
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	s, err := r.store(ctx, sized(r.bench, 50_000, 5_000))
	if err != nil {
		return err
	}
	u, err := r.startUsage(ctx)
	if err != nil {
		return err
	}
	var t taken
	began := time.Now()
	err = r.profiled(ctx, sized(r.bench, 8*time.Second, 2*time.Second), func() (err error) {
		t, err = r.workOff(ctx, s.OK)
		return err
	})
	if err != nil {
		return err
	}
	const what = "working off a backlog"
	r.addRate(what, float64(counted(s.OK))/t.Reached.Sub(began).Seconds())
	r.addRate("storing a backlog", s.perSecond())
	return r.addUsage(ctx, what, u, s.OK)
}

// store stores a backlog while the backend hangs.
func (r *rig) store(ctx context.Context, count int) (sent, error) {
	if _, err := r.backend.tell(ctx, "/pause"); err != nil {
		return sent{}, err
	}
	return r.closed(ctx, queuePath, 0, count)
}

// workOff lets the backend go on, and waits until it has taken the backlog.
func (r *rig) workOff(ctx context.Context, count int) (t taken, err error) {
	if _, err := r.backend.tell(ctx, "/resume"); err != nil {
		return t, err
	}
	return r.backend.wait(ctx, counted(count))
}

// counted is how much of a backlog counts: the few deliveries that hung longer than they
// may come after their retry delay.
func counted(count int) int { return count * 99 / 100 }

// burstConnections bounds how many requests of an open loop are under way.
const burstConnections = 1000

// open sends at a rate.
func (r *rig) open(ctx context.Context, rate int, lasting time.Duration, others uint64) (sent, error) {
	return send(ctx, sending{Address: r.address, Path: queuePath, Connections: burstConnections, Rate: rate, Duration: lasting, Others: others})
}

// burstRow measures answers while more comes than can be delivered: half of what the bare
// reverse_proxy does.
func (r *rig) burstRow(ctx context.Context) error {
	rate := int(r.bare / 2)
	if err := r.arrivals(ctx, "in a burst", rate, sized(r.bench, 8*time.Second, 3*time.Second)); err != nil {
		return err
	}
	return r.addMemory("most memory in a burst")
}

// quietRow measures what a notification's way takes while there is little to do.
func (r *rig) quietRow(ctx context.Context) error {
	return r.arrivals(ctx, "at 50/s", 50, sized(r.bench, 15*time.Second, 4*time.Second))
}

// arrivals measures how long it takes to the answer and to the delivery.
func (r *rig) arrivals(ctx context.Context, what string, rate int, lasting time.Duration) error {
	u, err := r.startUsage(ctx)
	if err != nil {
		return err
	}
	var s sent
	var t taken
	err = r.profiled(ctx, lasting, func() (err error) {
		if s, err = r.open(ctx, rate, lasting, 0); err != nil {
			return err
		}
		t, err = r.backend.wait(ctx, s.OK)
		return err
	})
	if err != nil {
		return err
	}
	r.add("answers "+what+", p50", milliseconds, inMilliseconds(s.P50))
	r.add("answers "+what+", p99", milliseconds, inMilliseconds(s.P99))
	r.add("received to delivered "+what+", p50", milliseconds, inMilliseconds(t.P50))
	r.add("received to delivered "+what+", p99", milliseconds, inMilliseconds(t.P99))
	return r.addUsage(ctx, what, u, s.OK)
}

// fairRow measures how long notifications of 199 workspaces take beside a burst of one, and
// the rate at which all are delivered.
func (r *rig) fairRow(ctx context.Context) error {
	const workspaces, each = 199, 100
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	lasting := sized(r.bench, 8*time.Second, 3*time.Second)
	type answered struct {
		sent
		err error
	}
	beside := make(chan answered, 1)
	go func() {
		s, err := r.open(ctx, each, lasting, workspaces)
		beside <- answered{s, err}
	}()
	s, err := r.open(ctx, int(r.bare/2), lasting, 0)
	o := <-beside
	if err := errors.Join(err, o.err); err != nil {
		return err
	}
	t, err := r.backend.wait(ctx, s.OK+o.OK)
	if err != nil {
		return err
	}
	const what = "others beside a burst of one workspace"
	r.add(what+", received to delivered p50", milliseconds, inMilliseconds(t.OthersP50))
	r.add(what+", received to delivered p99", milliseconds, inMilliseconds(t.OthersP99))
	r.add(what+", answers p99", milliseconds, inMilliseconds(o.P99))
	r.addRate("the burst and the others together", float64(s.OK+o.OK)/t.Reached.Sub(s.Began).Seconds())
	return nil
}

// stockRow measures a start on a large backlog, and the memory while it is worked off for a
// while.
func (r *rig) stockRow(ctx context.Context) error {
	count := sized(r.bench, r.stock, 10_000)
	s, err := r.store(ctx, count)
	if err != nil {
		return err
	}
	r.kill()
	took, err := r.launch(ctx)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("with %d waiting", count)
	r.add("start "+what, milliseconds, inMilliseconds(took))
	if _, err := r.workOff(ctx, min(s.OK, 100_000)); err != nil {
		return err
	}
	return r.addMemory("most memory " + what)
}

// killsRow measures how many notifications a backend sees twice when the gateway is killed.
func (r *rig) killsRow(ctx context.Context) error {
	kills := sized(r.bench, 20, 3)
	sender, err := startChild(ctx, senderRole, sending{Address: r.address, Path: queuePath, Connections: connectionCount})
	if err != nil {
		return err
	}
	defer sender.end()
	for range kills {
		select {
		case <-time.After(sized(r.bench, 2*time.Second, time.Second)):
		case <-ctx.Done():
			return ctx.Err()
		}
		r.kill()
		if _, err := r.launch(ctx); err != nil {
			return err
		}
	}
	sender.input.Close() // lets it end
	var s sent
	if err := sender.answer(&s); err != nil {
		return err
	}
	t, err := r.backend.tell(ctx, "/quiet")
	if err != nil {
		return err
	}
	r.add("seen twice after a kill", "", float64(t.Deliveries-t.Notifications)/float64(kills))
	if t.Notifications < s.OK {
		return fmt.Errorf("%d were acknowledged, but only %d delivered", s.OK, t.Notifications)
	}
	return nil
}
