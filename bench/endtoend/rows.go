package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/load"
)

// measureBare sends to the bare reverse_proxy.
func (r *rig) measureBare(ctx context.Context) error {
	if _, err := r.closed(ctx, barePath, load.Plan{Duration: time.Second}); err != nil { // warms up
		return err
	}
	if _, err := r.backend.tell(ctx, "/reset"); err != nil {
		return err
	}
	s, err := r.closed(ctx, barePath, load.Plan{Duration: sized(r.bench, 5*time.Second, 2*time.Second)})
	if err != nil {
		return err
	}
	t, err := r.backend.tell(ctx, "/count")
	if err == nil && t.Deliveries != s.OK {
		err = fmt.Errorf("%d were answered with 200, but %d delivered", s.OK, t.Deliveries)
	}
	r.bare = append(r.bare, s.perSecond())
	return err
}

// togetherRow measures storing and delivering together: the rate at which the backend has
// taken all that is sent.
func (r *rig) togetherRow(ctx context.Context) error {
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	lasting := sized(r.bench, 10*time.Second, 3*time.Second)
	u, err := r.startUsage()
	if err != nil {
		return err
	}
	var s sent
	var t taken
	err = r.profiled(ctx, lasting, func() (err error) {
		if s, err = r.closed(ctx, queuePath, load.Plan{Duration: lasting}); err != nil {
			return err
		}
		t, err = r.backend.wait(ctx, s.OK)
		return err
	})
	if err != nil {
		return err
	}
	used, err := u.since(s.OK)
	if err != nil {
		return err
	}
	r.addRate("stored and delivered together", float64(s.OK)/t.Reached.Sub(s.Began).Seconds(),
		fmt.Sprintf("stored %.0f/s, answers p50 %s, p99 %s; %s", s.perSecond(), short(s.P50), short(s.P99), used))
	return r.addMemory("most memory at 64 connections")
}

// backlogRow measures working off what was stored while the backend hung.
func (r *rig) backlogRow(ctx context.Context) error {
	count := sized(r.bench, 50_000, 5_000)
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	s, err := r.store(ctx, count)
	if err != nil {
		return err
	}
	u, err := r.startUsage()
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
	used, err := u.since(s.OK)
	if err != nil {
		return err
	}
	r.addRate("working off a backlog", float64(settled(s.OK))/t.Reached.Sub(began).Seconds(),
		fmt.Sprintf("stored %.0f/s; %s", s.perSecond(), used))
	return nil
}

// store stores a backlog while the backend hangs.
func (r *rig) store(ctx context.Context, count int) (sent, error) {
	if _, err := r.backend.tell(ctx, "/pause"); err != nil {
		return sent{}, err
	}
	return r.closed(ctx, queuePath, load.Plan{Count: count})
}

// workOff lets the backend go on, and waits until it has taken the backlog.
func (r *rig) workOff(ctx context.Context, count int) (t taken, err error) {
	if _, err := r.backend.tell(ctx, "/resume"); err != nil {
		return t, err
	}
	return r.backend.wait(ctx, settled(count))
}

// settled is how much of a backlog counts: the few deliveries that hung longer than they
// may come after their retry delay.
func settled(count int) int { return count * 99 / 100 }

// arrivalsRow measures at the rate of Intercom's quota.
func (r *rig) arrivalsRow(ctx context.Context) error {
	if err := r.lag(ctx, 2500, sized(r.bench, 8*time.Second, 3*time.Second)); err != nil {
		return err
	}
	return r.addMemory("most memory at 2,500/s")
}

// quietRow measures what a notification's way takes while there is little to do.
func (r *rig) quietRow(ctx context.Context) error {
	return r.lag(ctx, 50, sized(r.bench, 20*time.Second, 5*time.Second))
}

// lag measures how long it takes from sending to the answer and to the delivery.
func (r *rig) lag(ctx context.Context, rate float64, lasting time.Duration) error {
	u, err := r.startUsage()
	if err != nil {
		return err
	}
	var s sent
	var t taken
	err = r.profiled(ctx, lasting, func() (err error) {
		if s, err = r.open(ctx, rate, lasting); err != nil {
			return err
		}
		t, err = r.backend.wait(ctx, s.OK)
		return err
	})
	if err != nil {
		return err
	}
	used, err := u.since(s.OK)
	if err != nil {
		return err
	}
	at := fmt.Sprintf("at %.0f/s", rate)
	r.addTime("sending to delivery "+at+", p50", t.P50, used.String())
	r.addTime("sending to delivery "+at+", p99", t.P99, "")
	r.addTime("sending to answer "+at+", p50", s.P50, "")
	r.addTime("sending to answer "+at+", p99", s.P99, "")
	return nil
}

// turnsRow measures how long notifications of 199 workspaces take beside a burst of one, and
// the rate at which all are delivered.
func (r *rig) turnsRow(ctx context.Context) error {
	const others, perSecond = 199, 100
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
		s, err := send(ctx, sending{Address: r.address, Path: queuePath, Others: others, Plan: load.Plan{Rate: perSecond, Duration: lasting, AtOnce: mostAtOnce}})
		beside <- answered{s, errors.Join(err, s.err())}
	}()
	s, err := r.open(ctx, 2500, lasting)
	o := <-beside
	if err := errors.Join(err, o.err); err != nil {
		return err
	}
	t, err := r.backend.wait(ctx, s.OK+o.OK)
	if err != nil {
		return err
	}
	r.addTime("others beside a burst of one workspace, sending to delivery, p50", t.OthersP50, fmt.Sprintf("the burst: p50 %s", short(t.P50)))
	r.addTime("others beside a burst of one workspace, sending to delivery, p99", t.OthersP99, fmt.Sprintf("to their answers: p99 %s", short(o.P99)))
	r.addRate("delivered of the burst and the others together", float64(s.OK+o.OK)/t.Reached.Sub(s.Began).Seconds(), "")
	return nil
}

// stockRow measures a start on a large backlog, and the memory while it is worked off.
func (r *rig) stockRow(ctx context.Context) error {
	count := sized(r.bench, 200_000, 10_000)
	s, err := r.store(ctx, count)
	if err != nil {
		return err
	}
	r.kill()
	took, err := r.launch(ctx)
	if err != nil {
		return err
	}
	r.addTime(fmt.Sprintf("start on a backlog of %d", count), took, "killed before")
	if _, err := r.workOff(ctx, s.OK); err != nil {
		return err
	}
	return r.addMemory(fmt.Sprintf("most memory with a backlog of %d", count))
}

// killsRow measures how many notifications a backend sees twice when the gateway is killed.
func (r *rig) killsRow(ctx context.Context) error {
	kills := sized(r.bench, 20, 3)
	sender, err := startChild(ctx, senderRole, sending{Address: r.address, Path: queuePath, Plan: load.Plan{AtOnce: connectionCount}})
	if err != nil {
		return err
	}
	var s sent
	var up time.Duration
	for range kills {
		began := time.Now()
		select {
		case <-time.After(sized(r.bench, 2*time.Second, time.Second)):
		case <-ctx.Done():
		}
		r.kill()
		up += time.Since(began)
		if _, err = r.launch(ctx); err != nil {
			break
		}
	}
	sender.input.Close() // lets it end
	err = errors.Join(err, sender.answer(&s))
	sender.end()
	if err != nil {
		return err
	}
	if err := r.waitUntilEmpty(ctx); err != nil {
		return err
	}
	t, err := r.backend.tell(ctx, "/count")
	if err != nil {
		return err
	}
	twice := float64(t.Deliveries - t.Notifications)
	perSecond := float64(t.Notifications) / up.Seconds()
	r.results = append(r.results, result{
		what:   "seen twice after a kill",
		figure: fmt.Sprintf("%.1f", twice/float64(kills)),
		note: fmt.Sprintf("%d kills, %d notifications, %d acknowledged; %.1f ms of deliveries a kill", kills, t.Notifications, s.OK,
			1000*twice/float64(kills)/perSecond),
	})
	if t.Notifications < s.OK {
		return fmt.Errorf("%d were acknowledged, but only %d delivered", s.OK, t.Notifications)
	}
	return nil
}

// usage is what the machine and the gateway had used when something began.
type usage struct {
	rig        *rig
	processors processorTimes
	gateway    time.Duration
}

// used is what was used since.
type used struct {
	idle float64       // share of the processors
	each time.Duration // time of processors that the gateway has used, by notification
}

func (r *rig) startUsage() (u usage, err error) {
	u.rig = r
	if u.processors, err = readProcessorTimes(); err != nil {
		return u, err
	}
	u.gateway, err = processorTime(r.cmd.Process.Pid)
	return u, err
}

func (u usage) since(notifications int) (d used, err error) {
	if d.idle, err = idleSince(u.processors); err != nil {
		return d, err
	}
	now, err := processorTime(u.rig.cmd.Process.Pid)
	d.each = (now - u.gateway) / time.Duration(max(1, notifications))
	return d, err
}

func (d used) String() string {
	return fmt.Sprintf("processors %.0f %% idle, gateway %s each", 100*d.idle, short(d.each))
}
