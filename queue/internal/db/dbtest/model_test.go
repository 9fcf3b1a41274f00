package dbtest_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "run the model with this seed only")
	modelSteps = flag.Int("model.steps", 300, "steps of each sequence of the model")
	modelSeeds = flag.Int("model.seeds", 3, "how many sequences of the model to run")
)

// Random sequences of calls agree with a model of the states.
func TestModel(t *testing.T) {
	seeds := []uint64{*modelSeed}
	if *modelSeed == 0 {
		seeds = nil
		for n := range *modelSeeds {
			seeds = append(seeds, uint64(n+1))
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, d *database) {
				m := &model{t: t, r: rand.New(rand.NewPCG(seed, 0)), d: d, deliveries: make(map[int64]*modelDelivery), ids: make(map[string]int64)}
				for _, i := range d.startAll(t) {
					m.workers = append(m.workers, &modelWorker{instance: i, held: make(map[int64]held)})
				}
				for m.step = 0; m.step < *modelSteps && !t.Failed(); m.step++ {
					m.next()
					m.check()
				}
				if !t.Failed() {
					m.checkHistory()
					m.finishAll()
				}
				if t.Failed() {
					t.Logf("again with: -model.seed %d -model.steps %d", seed, *modelSteps)
				}
			})
		})
	}
}

// model is what a database should be like after a sequence of calls.
type model struct {
	t          *testing.T
	r          *rand.Rand
	d          *database
	step       int
	workers    []*modelWorker
	deliveries map[int64]*modelDelivery
	ids        map[string]int64 // notifications by workspace and Intercom's id
	last       int64            // id of the newest notification
	bodies     int
}

// modelWorker is an instance and what it knows, which is in memory as in a process.
type modelWorker struct {
	*instance
	held map[int64]held
	past []held // of claims that have ended
}

type modelDelivery struct {
	id              int64
	workspace, key  string
	lane            string
	order           db.Order
	body            string
	fixed           bool
	state, before   db.State // before: which it was claimed from
	reason          db.Reason
	due             bool // if it is retrying
	attempts, fails int  // fails: attempts that are kept
	holder          string
	history         []string // of the model
}

var (
	modelLanes = []string{"one", "two", "three"} // the last one has orders
	modelTime  = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
)

func holder(w *modelWorker, token db.Token) string { return fmt.Sprintf("%s#%d", w.Instance(), token) }

func (d *modelDelivery) note(m *model, format string, args ...any) {
	d.history = append(d.history, fmt.Sprintf("%d: %s", m.step, fmt.Sprintf(format, args...)))
}

func (m *model) errorf(d *modelDelivery, format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("step %d: delivery %d: %s\n\t%s", m.step, d.id, fmt.Sprintf(format, args...), strings.Join(d.history, "\n\t"))
}

func (m *model) sorted() []*modelDelivery {
	return slices.SortedFunc(maps.Values(m.deliveries), func(a, b *modelDelivery) int { return int(a.id - b.id) })
}

func (m *model) next() {
	w := m.workers[m.r.IntN(len(m.workers))]
	actions := []struct {
		weight int
		do     func(w *modelWorker)
	}{
		{24, m.store}, {26, m.claim}, {26, m.finish}, {5, m.loseClaims}, {12, m.change}, {3, m.expire}, {2, m.restart}, {2, m.takeOver},
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := m.r.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			a.do(w)
			return
		}
	}
}

// ----- storing and claiming -----

func (m *model) store(w *modelWorker) {
	batch := make([]*db.NewNotification, m.r.IntN(6))
	token := newToken()
	for n := range batch {
		one := note(fmt.Sprintf("workspace %d", m.r.IntN(5)), "")
		if m.r.IntN(2) == 0 {
			one.NotificationID = fmt.Sprint("id ", m.r.IntN(12))
		}
		m.bodies++
		one.Body = fmt.Appendf(nil, "%d%s", m.bodies, strings.Repeat("<", m.r.IntN(100)))
		first := m.r.IntN(len(modelLanes))
		inLanes(one, modelLanes[first:first+1+m.r.IntN(len(modelLanes)-first)]...)
		for place := range one.Deliveries {
			d := &one.Deliveries[place]
			if m.r.IntN(2) == 0 {
				d.Token = token
			}
			if d.Lane == "three" && m.r.IntN(6) > 0 {
				d.Order = db.Order{Key: fmt.Sprint(one.Workspace, " ", m.r.IntN(2)), CreatedAt: modelTime.Add(time.Duration(m.r.IntN(9)) * time.Second)}
			}
		}
		batch[n] = one
	}
	for n, s := range w.store(m.t, batch...) {
		one := batch[n]
		key := one.Workspace + " " + one.NotificationID
		known := one.NotificationID != "" && m.ids[key] != 0
		if s.Duplicate != known || (s.ID == 0) != known || !known && s.ID <= m.last {
			m.t.Errorf("step %d: %+v of %q, which is known: %t", m.step, s, key, known)
			continue
		}
		if known {
			continue
		}
		m.last = s.ID
		if one.NotificationID != "" {
			m.ids[key] = s.ID
		} else {
			key = ""
		}
		for place, d := range one.Deliveries {
			id := db.DeliveryID(s.ID, place)
			added := &modelDelivery{id: id, workspace: one.Workspace, key: key, lane: d.Lane, order: d.Order, body: string(one.Body), fixed: d.Fixed, state: db.Waiting}
			m.deliveries[id] = added
			added.note(m, "stored")
			if d.Token != 0 && d.Order.Key == "" {
				m.claimed(w, added, held{db.Claimed{ID: id}, d.Token})
			}
		}
	}
}

// claimed notes a claim, which must have been allowed.
func (m *model) claimed(w *modelWorker, d *modelDelivery, h held) {
	m.t.Helper()
	if d.state != db.Waiting && (d.state != db.Retrying || !d.due) || h.Attempts != d.attempts {
		m.errorf(d, "claimed as %+v", h.Claimed)
	}
	if n := h.Notification; n != nil && (string(n.Body) != d.body || n.ID != db.NotificationOf(d.id) || h.Fixed != d.fixed || n.Workspace != d.workspace) {
		m.errorf(d, "claimed as %+v of %+v", h.Claimed, n)
	}
	stale := false
	for _, other := range m.ofObject(d) {
		stale = stale || other.state == db.Delivered && other.behind(d)
		if other.state == db.Delivering || other.state != db.Delivered && other.state != db.Dead && d.behind(other) {
			m.errorf(d, "claimed before its turn: %d is %s", other.id, other.state)
		}
	}
	if h.Stale != stale || h.Ordered != (d.order.Key != "") {
		m.errorf(d, "claimed as %+v, want it stale: %t", h.Claimed, stale)
	}
	d.before, d.state, d.holder = d.state, db.Delivering, holder(w, h.token)
	d.note(m, "claimed by %s", d.holder)
	w.held[d.id] = h
}

// ofObject returns the other deliveries of the object in the lane.
func (m *model) ofObject(d *modelDelivery) []*modelDelivery {
	return slices.DeleteFunc(m.sorted(), func(other *modelDelivery) bool {
		return other == d || d.order.Key == "" || other.lane != d.lane || other.order.Key != d.order.Key
	})
}

// behind reports whether another delivery of the object comes first.
func (d *modelDelivery) behind(other *modelDelivery) bool {
	return d.order.CreatedAt.After(other.order.CreatedAt) || d.order.CreatedAt.Equal(other.order.CreatedAt) && d.id > other.id
}

// hasTurn reports whether no other delivery of the object comes first.
func (m *model) hasTurn(d *modelDelivery) bool {
	return !slices.ContainsFunc(m.ofObject(d), func(other *modelDelivery) bool {
		return other.state == db.Delivering || other.state != db.Delivered && other.state != db.Dead && d.behind(other)
	})
}

// claimable returns what a claim may take, the waiting ones in the order of fair queueing.
func (m *model) claimable(c db.Claim, after string) (waiting, due []int64) {
	byWorkspace := make(map[string][]int64)
	for _, d := range m.sorted() {
		switch {
		case d.lane != c.Lane.Name || slices.Contains(c.Except, d.id) || !m.hasTurn(d):
		case d.state == db.Waiting:
			byWorkspace[d.workspace] = append(byWorkspace[d.workspace], d.id)
		case d.state == db.Retrying && d.due:
			due = append(due, d.id)
		}
	}
	order := slices.Sorted(maps.Keys(byWorkspace))
	behind, _ := slices.BinarySearch(order, after+"\x00")
	order = slices.Concat(order[behind:], order[:behind])
	for len(byWorkspace) > 0 {
		for _, workspace := range order {
			if ids := byWorkspace[workspace]; len(ids) > 0 {
				waiting, byWorkspace[workspace] = append(waiting, ids[0]), ids[1:]
			} else {
				delete(byWorkspace, workspace)
			}
		}
	}
	return waiting, due
}

func (m *model) claim(w *modelWorker) {
	c := db.Claim{Lane: db.Lane{Name: modelLanes[m.r.IntN(len(modelLanes))]}, Token: newToken(), Limit: 1 + m.r.IntN(12), MaxBytes: 1 << 20, Ordered: true}
	if m.r.IntN(3) == 0 {
		c.MaxBytes = 1 + m.r.IntN(400)
	}
	if m.r.IntN(3) == 0 {
		for _, d := range m.sorted() {
			if m.r.IntN(4) == 0 {
				c.Except = append(c.Except, d.id)
			}
		}
	}
	waiting, due := m.claimable(c, w.after[c.Lane.Name])
	claimed, more := w.claim(m.t, c)
	size := 0
	var gotWaiting []int64
	for _, one := range claimed {
		size += len(one.Notification.Body)
		d := m.deliveries[one.ID]
		if d == nil || d.lane != c.Lane.Name || slices.Contains(c.Except, one.ID) {
			m.t.Errorf("step %d: %+v gave %+v", m.step, c, one)
			continue
		}
		if d.state == db.Waiting {
			gotWaiting = append(gotWaiting, d.id)
		}
		m.claimed(w, d, held{one, c.Token})
	}
	gotDue := len(claimed) - len(gotWaiting)
	if len(claimed) > 1 && size > c.MaxBytes {
		m.t.Errorf("step %d: %+v gave %d deliveries of %d bytes", m.step, c, len(claimed), size)
	}
	if c.MaxBytes == 1<<20 {
		if fair := waiting[:min(len(gotWaiting), len(waiting))]; !slices.Equal(gotWaiting, fair) {
			m.t.Errorf("step %d: %+v gave the waiting ones %v, want %v", m.step, c, gotWaiting, fair)
		}
		if half := c.Limit / 2; len(gotWaiting) < min(half, len(waiting)) || gotDue < min(half, len(due)) || len(claimed) < min(c.Limit, len(waiting)+len(due)) {
			m.t.Errorf("step %d: %+v gave %d of %d waiting ones, and %d of %d that were due", m.step, c, len(gotWaiting), len(waiting), gotDue, len(due))
		}
	} else if len(claimed) == 0 && len(waiting)+len(due) > 0 {
		m.t.Errorf("step %d: %+v gave nothing of %v and %v", m.step, c, waiting, due)
	}
	if left := len(waiting) + len(due) - len(claimed); !more && left != 0 {
		m.t.Errorf("step %d: %+v left %d, and said that there is no more", m.step, c, left)
		for _, id := range slices.Concat(waiting, due) {
			if d := m.deliveries[id]; d.state != db.Delivering {
				m.errorf(d, "it was left")
				for _, other := range m.ofObject(d) {
					m.errorf(other, "of its object, %s", other.order.CreatedAt)
				}
			}
		}
	}
}

// ----- finishing -----

func (m *model) finish(w *modelWorker) {
	var outcomes []db.Outcome
	for _, id := range slices.Sorted(maps.Keys(w.held)) {
		if m.r.IntN(2) == 0 {
			outcomes = append(outcomes, m.outcome(w.held[id]))
		}
	}
	for range m.r.IntN(3) {
		if len(w.past) > 0 {
			late := w.past[m.r.IntN(len(w.past))]
			if !slices.ContainsFunc(outcomes, func(o db.Outcome) bool { return o.ID == late.ID }) {
				outcomes = append(outcomes, m.outcome(late))
			}
		}
	}
	m.r.Shuffle(len(outcomes), func(i, k int) { outcomes[i], outcomes[k] = outcomes[k], outcomes[i] })
	m.end(w, outcomes)
}

func (m *model) outcome(h held) db.Outcome {
	states := []db.State{db.Delivered, db.Delivered, db.Retrying, db.Retrying, db.Retrying, db.Dead, db.Waiting}
	o := h.outcome(states[m.r.IntN(len(states))], db.Reasons[m.r.IntN(len(db.Reasons))])
	if o.State == db.Retrying && m.r.IntN(3) == 0 {
		o.Delay = time.Hour
	}
	return o
}

// end applies outcomes, of which those have an effect whose claim holds the delivery.
func (m *model) end(w *modelWorker, outcomes []db.Outcome) {
	m.t.Helper()
	applied := w.finish(m.t, outcomes...)
	for _, o := range outcomes {
		d := m.deliveries[o.ID]
		counts := d != nil && d.state == db.Delivering && d.holder == holder(w, o.Token)
		if got := slices.Contains(applied, o.ID); got != counts {
			m.t.Errorf("step %d: %+v applied: %t, want %t", m.step, o, got, counts)
		}
		if counts {
			d.note(m, "finished as %s by %s", o.State, d.holder)
			if o.State == db.Waiting {
				m.release(d)
			} else {
				d.state, d.reason, d.due, d.attempts = o.State, o.Reason, o.Delay == 0, d.attempts+1
				if o.Attempt.Error != "" {
					d.fails++
				}
			}
		}
		if h, ok := w.held[o.ID]; ok && h.token == o.Token {
			w.past = append(w.past, h)
			delete(w.held, o.ID)
		}
	}
}

func (m *model) release(d *modelDelivery) {
	d.state, d.due = d.before, true
	d.note(m, "released as %s", d.state)
}

// loseClaims forgets what a process holds, as after lost replies, and releases it with what
// the database knows.
func (m *model) loseClaims(w *modelWorker) {
	for id, h := range w.held {
		if m.r.IntN(3) == 0 {
			w.past = append(w.past, h)
			delete(w.held, id)
		}
	}
	known, err := w.Held(m.t.Context())
	if err != nil {
		m.t.Fatalf("step %d: %v", m.step, err)
	}
	want := 0
	for _, d := range m.deliveries {
		if d.state == db.Delivering && strings.HasPrefix(d.holder, w.Instance()+"#") {
			want++
		}
	}
	if len(known) != want {
		m.t.Errorf("step %d: %d are held, want %d", m.step, len(known), want)
	}
	var lost []db.Outcome
	for _, h := range known {
		if d := m.deliveries[h.ID]; d == nil || d.state != db.Delivering || d.holder != holder(w, h.Token) {
			m.t.Errorf("step %d: %+v is held", m.step, h)
		}
		if mine, ok := w.held[h.ID]; !ok || mine.token != h.Token {
			lost = append(lost, db.Outcome{ID: h.ID, Token: h.Token, State: db.Waiting})
		}
	}
	m.end(w, lost)
}

// ----- persons -----

func (m *model) change(w *modelWorker) {
	c := db.Change{Action: []db.Action{db.Retry, db.Retry, db.Send, db.Drop, db.Erase}[m.r.IntN(5)], To: append(modelLanes, "four")[m.r.IntN(4)]}
	c.Filter.Endpoint = endpoint
	if m.r.IntN(2) == 0 {
		c.Filter.States = []db.State{db.States[m.r.IntN(5)], db.States[m.r.IntN(5)]}
	}
	if m.r.IntN(4) == 0 {
		c.Filter.Lane = modelLanes[m.r.IntN(len(modelLanes))]
	}
	all := m.sorted()
	for range m.r.IntN(4) {
		if len(all) > 0 {
			if id := all[m.r.IntN(len(all))].id; !slices.Contains(c.IDs, id) {
				c.IDs = append(c.IDs, id)
			}
		}
	}
	var want []int64
	for _, d := range all {
		selected := slices.Contains(c.IDs, d.id) && (len(c.Filter.States) == 0 || slices.Contains(c.Filter.States, d.state)) &&
			(c.Filter.Lane == "" || c.Filter.Lane == d.lane)
		if selected && (d.state != db.Delivering || c.Action == db.Erase) && (d.state != db.Waiting || c.Action != db.Retry) {
			want = append(want, d.id)
		}
	}
	if c.Action == db.Send { // what becomes of those in the lane already is for the tests of Send
		want = slices.DeleteFunc(want, func(id int64) bool {
			return slices.ContainsFunc(m.of(db.NotificationOf(id)), func(d *modelDelivery) bool { return d.lane == c.To })
		})
		c.IDs = want
	}
	if got := w.change(m.t, c); !slices.Equal(got, want) {
		m.t.Errorf("step %d: %+v has changed %v, want %v", m.step, c, got, want)
	}
	for _, id := range want {
		d := m.deliveries[id]
		d.note(m, "%s by a person", c.Action)
		switch c.Action {
		case db.Retry:
			d.state, d.reason, d.attempts = db.Waiting, "", 0
		case db.Drop, db.Erase:
			m.delete(d)
		case db.Send:
			m.send(d, c.To)
		}
	}
}

// of returns the deliveries of a notification.
func (m *model) of(notification int64) []*modelDelivery {
	return slices.DeleteFunc(m.sorted(), func(d *modelDelivery) bool { return db.NotificationOf(d.id) != notification })
}

func (m *model) send(d *modelDelivery, to string) {
	all := m.of(db.NotificationOf(d.id))
	if !slices.ContainsFunc(all, func(other *modelDelivery) bool { return other.lane == to }) {
		// at whatever free place it is
		from := db.DeliveryID(db.NotificationOf(d.id), 0)
		found, _, err := m.workers[0].List(m.t.Context(), db.Filter{Endpoint: endpoint, Lane: to}, db.Page{From: from, Limit: 1})
		if err != nil || len(found) != 1 || db.NotificationOf(found[0].ID) != db.NotificationOf(d.id) || m.deliveries[found[0].ID] != nil {
			m.errorf(d, "sent to %s, but is not there: %+v (%v)", to, found, err)
			return
		}
		added := &modelDelivery{id: found[0].ID, workspace: d.workspace, key: d.key, lane: to, body: d.body, fixed: true, state: db.Waiting}
		added.note(m, "sent from %s", d.lane)
		m.deliveries[added.id] = added
	}
	if d.state != db.Delivered {
		d.state, d.reason = db.Dead, db.Cancelled
	}
}

func (m *model) delete(d *modelDelivery) {
	delete(m.deliveries, d.id)
	if notification := db.NotificationOf(d.id); d.key != "" && len(m.of(notification)) == 0 {
		delete(m.ids, d.key)
	}
}

// ----- time and other processes -----

func (m *model) expire(w *modelWorker) {
	e := db.Expiry{Endpoint: endpoint, KeepDelivered: time.Nanosecond, KeepDead: time.Hour, Limit: 1 + m.r.IntN(5)}
	time.Sleep(3 * time.Millisecond)
	var deleted, cursor int64
	for {
		n, next, err := w.Expire(m.t.Context(), e)
		if err != nil || n > int64(e.Limit) {
			m.t.Fatalf("step %d: %d of %d expired: %v", m.step, n, e.Limit, err)
		}
		deleted += n
		if cursor = next; cursor == 0 {
			break
		}
		e.Cursor = cursor
	}
	for _, d := range m.sorted() {
		if d.state == db.Delivered {
			m.delete(d)
			deleted--
		}
	}
	if deleted != 0 {
		m.t.Errorf("step %d: the number of those that expired is wrong by %d", m.step, deleted)
	}
}

// restart ends a process and starts another one, if it can be known at once that it is gone.
func (m *model) restart(w *modelWorker) {
	if m.d.shared {
		return
	}
	name := w.Instance()
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
	w.instance, w.held = m.d.start(m.t), make(map[int64]held)
	w.now(m.t)
	if _, err := w.TakeOver(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	for _, d := range m.sorted() {
		if d.state == db.Delivering && strings.HasPrefix(d.holder, name+"#") {
			m.release(d)
		}
	}
}

// takeOver takes nothing from those that live.
func (m *model) takeOver(w *modelWorker) {
	for _, other := range m.workers {
		other.now(m.t)
	}
	if n, err := w.TakeOver(m.t.Context()); n != 0 || err != nil {
		m.t.Errorf("step %d: %d were taken over (%v)", m.step, n, err)
	}
}

// ----- checks -----

// check compares all deliveries with the model.
func (m *model) check() {
	m.t.Helper()
	w := m.workers[m.r.IntN(len(m.workers))]
	seen := make(map[int64]bool)
	counts := make(map[string]int64)
	for _, got := range w.list(m.t, db.Filter{}, db.Page{Limit: 1 + m.r.IntN(200), Newest: m.r.IntN(2) == 0}) {
		seen[got.ID] = true
		d := m.deliveries[got.ID]
		if d == nil {
			m.t.Errorf("step %d: nobody stored %+v", m.step, got)
			continue
		}
		finished := d.state == db.Delivered || d.state == db.Dead
		if got.State != d.state || got.Reason != d.reason || got.Attempts != d.attempts || got.Lane != d.lane || got.Fixed != d.fixed || got.Workspace != d.workspace ||
			got.Notification != db.NotificationOf(d.id) || got.FinishedAt.IsZero() == finished || got.DueAt.IsZero() == (d.state == db.Retrying) {
			m.errorf(d, "it is %+v, want it %s %q after %d attempts", got, d.state, d.reason, d.attempts)
		}
		if d.state != db.Delivered {
			counts[d.lane+" "+string(d.state)]++
		}
	}
	for _, d := range m.sorted() {
		if !seen[d.id] {
			m.errorf(d, "it is lost, and was %s", d.state)
		}
	}
	backlog, _, err := w.Backlog(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range backlog {
		if key := c.Lane.Name + " " + string(c.State); counts[key] == c.Count {
			delete(counts, key)
		} else if c.Count != 0 {
			m.t.Errorf("step %d: counted %+v, want %d", m.step, c, counts[key])
		}
	}
	if len(counts) > 0 {
		m.t.Errorf("step %d: not counted were %v", m.step, counts)
	}
}

// checkHistory compares the attempts that are kept.
func (m *model) checkHistory() {
	for _, n := range m.workers[0].export(m.t) {
		for _, got := range n.Deliveries {
			if d := m.deliveries[got.ID]; len(got.History) != d.fails || string(n.Body) != d.body {
				m.errorf(d, "it has %d failed attempts and the body %.20q, want %d and %.20q", len(got.History), n.Body, d.fails, d.body)
			}
		}
	}
}

// finishAll delivers all that is there, after which nothing may be left.
func (m *model) finishAll() {
	for _, w := range m.workers {
		var outcomes []db.Outcome
		for _, h := range w.held {
			outcomes = append(outcomes, h.outcome(db.Delivered))
		}
		m.end(w, outcomes)
		m.loseClaims(w)
	}
	w := m.workers[0]
	var later []int64
	for _, d := range m.sorted() {
		if d.state == db.Retrying {
			later = append(later, d.id)
			d.state, d.attempts = db.Waiting, 0
		}
	}
	w.change(m.t, db.Change{Action: db.Retry, IDs: later})
	for _, name := range append(modelLanes, "four") {
		token := newToken()
		for claimed := w.claimAll(m.t, db.Claim{Lane: db.Lane{Name: name}, Token: token, Limit: 50, Ordered: true}); len(claimed) > 0; {
			var outcomes []db.Outcome
			for _, c := range claimed {
				m.claimed(w, m.deliveries[c.ID], held{c, token})
				outcomes = append(outcomes, w.held[c.ID].outcome(db.Delivered))
			}
			m.end(w, outcomes)
			claimed = w.claimAll(m.t, db.Claim{Lane: db.Lane{Name: name}, Token: token, Limit: 50, Ordered: true})
		}
	}
	m.check()
	for _, d := range m.sorted() {
		if d.state != db.Delivered && d.state != db.Dead {
			m.errorf(d, "it is %s although all was delivered", d.state)
		}
	}
}
