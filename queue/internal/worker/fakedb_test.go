package worker

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// fakeDB is a database in memory. Others can be opened on the same rows, as after a restart.
type fakeDB struct {
	*fakeRows
	instance string
	peers    db.Peers

	store     func() error // is called before a batch is stored; nil does nothing
	finish    func() error // likewise
	heartbeat func() error // likewise
	backlog   func() error // likewise
}

type fakeRows struct {
	mu            sync.Mutex
	last          int64
	notifications map[int64]*db.Notification
	deliveries    map[int64]*fakeRow
	paused        map[db.Lane]bool
	once          map[string]time.Time
	batches       [][]string // ids of the notifications that Store got
}

type fakeRow struct {
	lane     db.Lane
	fixed    bool
	state    db.State
	reason   db.Reason
	token    db.Token
	instance string
	attempts int
	stored   time.Time
	due      time.Time
	finished time.Time
	history  []db.Attempt
}

func newFakeDB() *fakeDB {
	return (&fakeRows{notifications: map[int64]*db.Notification{}, deliveries: map[int64]*fakeRow{}, paused: map[db.Lane]bool{}, once: map[string]time.Time{}}).open("host-1")
}

func (f *fakeRows) open(instance string) *fakeDB {
	return &fakeDB{fakeRows: f, instance: instance, peers: db.Peers{Exclusive: true}}
}

func call(hook func() error) error {
	if hook == nil {
		return nil
	}
	return hook()
}

func (f *fakeDB) Store(_ context.Context, collect func() []*db.NewNotification) ([]db.Stored, error) {
	all := collect()
	ids := make([]string, len(all))
	for i, n := range all {
		ids[i] = n.NotificationID
	}
	f.mu.Lock()
	f.batches = append(f.batches, ids)
	f.mu.Unlock()
	if err := call(f.store); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]db.Stored, len(all))
	for i, n := range all {
		if results[i].Duplicate = f.has(n.Notification); results[i].Duplicate {
			continue
		}
		if key := n.Once.Key; key != "" {
			results[i].Twin = time.Now().Before(f.once[key])
			if !results[i].Twin {
				f.once[key] = time.Now().Add(n.Once.Within)
			} else if len(n.Deliveries) == 1 {
				continue
			}
		}
		f.last++
		results[i].ID = f.last
		f.notifications[f.last] = n.Notification
		for place, d := range n.Deliveries {
			if results[i].Twin && place == 0 {
				continue
			}
			row := &fakeRow{lane: db.Lane{Endpoint: n.Endpoint, Name: d.Lane}, fixed: d.Fixed, state: db.Waiting, stored: time.Now()}
			if d.Token != 0 {
				row.state, row.token, row.instance = db.Delivering, d.Token, f.instance
			}
			f.deliveries[db.DeliveryID(f.last, place)] = row
		}
	}
	return results, nil
}

func (f *fakeRows) has(n *db.Notification) bool {
	for _, other := range f.notifications {
		if n.NotificationID != "" && other.Endpoint == n.Endpoint && other.Workspace == n.Workspace && other.NotificationID == n.NotificationID {
			return true
		}
	}
	return false
}

func (f *fakeDB) ids() []int64 {
	ids := make([]int64, 0, len(f.deliveries))
	for id := range f.deliveries {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (f *fakeDB) Claim(_ context.Context, claim db.Claim) (claimed []db.Claimed, more bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bytes := 0
	for _, id := range f.ids() {
		row := f.deliveries[id]
		available := row.state == db.Waiting || row.state == db.Retrying && !time.Now().Before(row.due)
		if row.lane != claim.Lane || !available || slices.Contains(claim.Except, id) {
			continue
		}
		note := f.notifications[db.NotificationOf(id)]
		if len(claimed) == claim.Limit || len(claimed) > 0 && bytes+len(note.Body) > claim.MaxBytes {
			return claimed, true, nil
		}
		bytes += len(note.Body)
		row.state, row.token, row.instance = db.Delivering, claim.Token, f.instance
		claimed = append(claimed, db.Claimed{ID: id, Notification: note, Fixed: row.fixed, Attempts: row.attempts, Age: time.Since(row.stored)})
	}
	return claimed, false, nil
}

func (f *fakeDB) Finish(_ context.Context, outcomes []db.Outcome) (applied []int64, err error) {
	if err := call(f.finish); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range outcomes {
		row := f.deliveries[o.ID]
		if row == nil || row.state != db.Delivering || row.token != o.Token || row.instance != f.instance {
			continue
		}
		applied = append(applied, o.ID)
		row.state, row.reason, row.due = o.State, o.Reason, time.Now().Add(o.Delay)
		if o.Attempt == nil {
			if row.attempts > 0 {
				row.state = db.Retrying
			}
			continue
		}
		row.attempts++
		if o.Attempt.Error != "" {
			row.history = append(row.history, *o.Attempt)
		}
		if o.State != db.Retrying {
			row.finished = time.Now()
		}
	}
	return applied, nil
}

func (f *fakeDB) Held(context.Context) (held []db.Held, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, row := range f.deliveries {
		if row.state == db.Delivering && row.instance == f.instance {
			held = append(held, db.Held{ID: id, Token: row.token})
		}
	}
	return held, nil
}

func (f *fakeDB) Heartbeat(context.Context, db.Presence) (db.Peers, error) {
	err := call(f.heartbeat)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peers, err
}

func (f *fakeDB) TakeOver(context.Context) (int64, error) { return 0, nil }

func (f *fakeDB) Backlog(context.Context) (counts []db.LaneCount, held []db.HeldBack, err error) {
	if err := call(f.backlog); err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	byKey := make(map[db.LaneCount]db.LaneCount)
	for _, row := range f.deliveries {
		if row.state == db.Delivered {
			continue
		}
		key := db.LaneCount{Lane: row.lane, State: row.state}
		count := byKey[key]
		byKey[key] = db.LaneCount{Lane: row.lane, State: row.state, Count: count.Count + 1, Oldest: max(count.Oldest, time.Since(row.stored))}
	}
	for _, count := range byKey {
		counts = append(counts, count)
	}
	return counts, nil, nil
}

func (f *fakeDB) Expire(_ context.Context, e db.Expiry) (deleted, cursor int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.ids() {
		row := f.deliveries[id]
		keep := e.KeepDelivered
		if row.state == db.Dead {
			keep = e.KeepDead
		}
		if row.lane.Endpoint != e.Endpoint || row.finished.IsZero() || time.Since(row.finished) < keep {
			continue
		}
		delete(f.deliveries, id)
		if f.deliveries[db.DeliveryID(db.NotificationOf(id), 0)] == nil { // tests delete the others first
			delete(f.notifications, db.NotificationOf(id))
		}
		if deleted++; deleted == int64(e.Limit) {
			return deleted, id, nil
		}
	}
	return deleted, 0, nil
}

func (f *fakeDB) Paused(context.Context) (paused []db.Lane, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for lane := range f.paused {
		paused = append(paused, lane)
	}
	return paused, nil
}

func (f *fakeDB) SetPaused(_ context.Context, lane db.Lane, paused bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.paused, lane)
	if paused {
		f.paused[lane] = true
	}
	return nil
}

func (f *fakeDB) Instance() string { return cmp.Or(f.instance, "host-1") }

func (*fakeDB) Close() error { return nil }

// states counts the deliveries, as in "support delivered".
func (f *fakeDB) states() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	states := make(map[string]int)
	for _, row := range f.deliveries {
		state := Label(row.lane) + " " + string(row.state)
		if row.reason != "" {
			state += " " + string(row.reason)
		}
		states[state]++
	}
	return states
}

var _ db.DB = (*fakeDB)(nil)
