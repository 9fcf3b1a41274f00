package queue

import (
	"context"
	"database/sql"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	intercomwebhook "github.com/caddy-intercom/caddy-intercom-webhook"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestClockIsSeenToBeSetBack(t *testing.T) {
	start := time.Now()
	at := start.Add
	for name, c := range map[string]struct {
		now            time.Time // of the database at the second heartbeat
		sent, answered time.Duration
		setBack        bool
	}{
		"it goes on":                       {at(5 * time.Second), 5 * time.Second, 5 * time.Second, false},
		"a heartbeat takes its time":       {at(5 * time.Second), 5 * time.Second, 9 * time.Second, false},
		"it is set forth":                  {at(3 * time.Hour), 5 * time.Second, 5 * time.Second, false},
		"it is set back":                   {at(-3 * time.Hour), 5 * time.Second, 5 * time.Second, true},
		"it is set back by a few seconds":  {at(2 * time.Second), 5 * time.Second, 5 * time.Second, true},
		"it is set back, and seen a while": {at(20 * time.Second), 30 * time.Second, 34 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			if !clock.setBack.Swap(false) {
				t.Error("what waited at the start is not looked at")
			}
			clock.note(start, start, start)
			if clock.setBack.Load() {
				t.Error("the first heartbeat finds a step")
			}
			clock.note(c.now, at(c.sent), at(c.answered))
			if clock.setBack.Load() != c.setBack {
				t.Errorf("set back: %v", !c.setBack)
			}
		})
	}
}

// steppingDB has a clock that can be set back.
type steppingDB struct {
	jobdb.DB
	back atomic.Int64 // nanoseconds
}

func (d *steppingDB) Beat(ctx context.Context, self jobdb.Presence) (jobdb.Fleet, error) {
	fleet, err := d.DB.Beat(ctx, self)
	fleet.Now = fleet.Now.Add(-time.Duration(d.back.Load()))
	return fleet, err
}

func TestRetriesAreNotPutOffWhenTheClockIsSetBack(t *testing.T) {
	path := newPath(t)
	stepping := new(steppingDB)
	target := &fakeTarget{lanes: []string{"support"}, answer: func(attempt int) intercomwebhook.Delivery {
		if attempt == 1 {
			return intercomwebhook.Delivery{Err: errors.New("not now")}
		}
		return intercomwebhook.Delivery{}
	}}
	d, err := newDispatcher(location{name: path, open: func(ctx context.Context) (db jobdb.DB, err error) {
		stepping.DB, err = jobdb.OpenSQLite(ctx, path, zap.NewNop())
		return stepping, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	q := &testQueue{T: t}
	q.attachment = newTestAttachment(d, Options{}, target)
	d.attach(attachments{q.attachment.options.Name: q.attachment})
	defer q.close()
	for d.clock.setBack.Load() { // the look at the start
		time.Sleep(time.Millisecond)
	}
	q.put("support", "a")
	q.eventually("support retryable", 1)

	// what a clock that is set back makes of the rows that are there
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`UPDATE river_job SET scheduled_at = datetime(scheduled_at, 'subsec', '+3 hours'), attempted_at = datetime(attempted_at, 'subsec', '+3 hours')`)
	if err != nil {
		t.Fatal(err)
	}
	stepping.back.Store(int64(3 * time.Hour))
	wake(d.heartbeatNow)
	q.eventually("support completed", 1)
}
