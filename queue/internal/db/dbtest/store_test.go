package dbtest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// random returns a text that cannot be compressed to less than half.
func random(length int) string {
	var b strings.Builder
	for n := 0; b.Len() < length; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", length, n))
		b.WriteString(hex.EncodeToString(sum[:]))
	}
	return b.String()[:length]
}

// foreignTexts are texts that a sender can put wherever it wants.
var foreignTexts = map[string]string{
	"an ordinary text":             "text",
	"a NUL":                        "a\x00b",
	"nothing but a NUL":            "\x00",
	"no UTF-8":                     "a\xff\xfeb",
	"half a surrogate":             "\xed\xa0\x80",
	"what looks encoded":           "base64:AP8=",
	"a prefix alone":               "base64:",
	"300 characters":               random(300),
	"300 characters of four bytes": strings.Repeat("😀", 300),
	"more than an index can hold":  random(9000),
	"quotes and backslashes":       `'"\'; DROP TABLE delivery; --\u0000 %s $1 ?`,
	"line breaks":                  "a\r\nb\u2028c",
	"patterns":                     "%_*[a-z]",
	"a number":                     "42",
	"a large number":               "92233720368547758070",
	"spaces at its ends":           " a ",
	"characters that compose":      "e\u0301",
}

func foreign(text string) *db.NewNotification {
	return &db.NewNotification{
		Notification: &db.Notification{
			Endpoint: endpoint, Workspace: text, Topic: text, NotificationID: text, ReceivedAt: time.Now(),
			Request: db.Request{
				Method: text, URI: text, Proto: text, HTTPS: true, Host: text, RemoteAddr: text, LocalAddr: text, LocalNet: text,
				Header: map[string][]string{text: {text, "", text}, "Plain": {text}}, OriginalMethod: text, OriginalURI: text,
			},
			Body: []byte(text),
		},
		Deliveries: []db.NewDelivery{{Lane: lane}, {Lane: "copy", Fixed: true}},
	}
}

func TestForeignBytesComeBackAsTheyWere(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		for name, text := range foreignTexts {
			t.Run(name, func(t *testing.T) { checkForeign(t, i, text) })
		}
	})
}

func checkForeign(t *testing.T, i *instance, text string) {
	n := foreign(text)
	i.mustStore(t, n)
	taken := i.take(t, lane, 1)[0]
	if different := differs(taken.Notification, n.Notification); different != "" {
		t.Errorf("claimed: %s", different)
	}
	if again := i.store(t, n)[0]; !again.Duplicate {
		t.Errorf("stored again: %+v, want a duplicate", again)
	}
	o := taken.outcome(db.Dead)
	o.Attempt.Upstream, o.Attempt.Error, o.Attempt.Answer = text, text, []byte(text)
	i.mustFinish(t, o)

	for _, how := range []string{text, fmt.Sprint(taken.Notification.ID)} {
		found, err := i.Find(t.Context(), endpoint, how, 10)
		found = slices.DeleteFunc(found, func(d db.Details) bool { return d.ID != taken.Notification.ID })
		if err != nil || len(found) != 1 {
			t.Fatalf("found %d by %.20q (%v), want 1", len(found), how, err)
		}
		if different := differs(&found[0].Notification, n.Notification); different != "" {
			t.Errorf("found: %s", different)
		}
		d := found[0].Deliveries[0]
		if d.Upstream != text || d.Error != text || len(d.History) != 1 {
			t.Errorf("the last attempt is %.200q, %.200q, and there are %d", d.Upstream, d.Error, len(d.History))
		} else if h := d.History[0]; h.Upstream != text || h.Error != text || string(h.Answer) != text {
			t.Errorf("the attempt is %+v", h)
		}
	}
	for what, filter := range map[string]db.Filter{
		"notification": {Notification: text, Lane: lane},
		"workspace":    {Workspace: text, Lane: lane},
		"error":        {Error: text, Lane: lane, Workspace: text},
	} {
		filter.States = []db.State{db.Dead}
		listed := i.list(t, filter, db.Page{Limit: 10})
		listed = slices.DeleteFunc(listed, func(d db.Delivery) bool { return d.ID != taken.ID })
		if len(listed) != 1 {
			t.Fatalf("listed %d by %s, want 1", len(listed), what)
		}
		if d := listed[0]; d.NotificationID != text || d.Workspace != text || d.Topic != text || d.Error != text || d.Upstream != text {
			t.Errorf("listed as %+v", d)
		}
	}
	if groups, err := i.DeadGroups(t.Context(), endpoint); err != nil || !slices.ContainsFunc(groups, func(g db.DeadGroup) bool { return g.Topic == text && g.Error == text }) {
		t.Errorf("no group of dead ones has it (%v)", err)
	}
	i.claimAll(t, db.Claim{Lane: db.Lane{Name: "copy"}})
}

func TestTextsThatAreEncodedAlikeAreNotDuplicates(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		// all pairs that some encoding might confuse
		for _, id := range []string{"a\xff", "a\xfe", "base64:Yf8=", "Yf8=", "base64:base64:Yf8=", "a", "A", "a\x00", "a ", " a", "1", "01", "e\u0301", "\u00e9"} {
			i.mustStore(t, note("w", id), note(id, "n"))
		}
	})
}

func TestBodiesComeBackAsTheyWere(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		every := make([]byte, 256)
		for n := range every {
			every[n] = byte(n)
		}
		for name, body := range map[string][]byte{"no body": nil, "every byte": every, "4 MiB": []byte(random(4 << 20))} {
			n := note("workspace", "")
			n.Body = body
			id := i.mustStore(t, n)[0]
			if got := i.mustClaim(t, id).Notification.Body; string(got) != string(body) {
				t.Errorf("%s: %d bytes, want %d", name, len(got), len(body))
			}
		}
	})
}

func TestStoredNotificationsAreAsTheyWere(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		before := i.now(t)
		n := inLanes(note("workspace", "id"), "first", "second", "third")
		n.ReceivedAt = time.Date(2026, 1, 2, 3, 4, 5, 678000000, time.FixedZone("", 3600))
		n.Deliveries[2].Token = newToken()
		id := i.store(t, n)[0].ID
		after := i.now(t)

		found := i.notification(t, id)
		if different := differs(&found.Notification, n.Notification); different != "" {
			t.Error(different)
		}
		if len(found.Deliveries) != 3 {
			t.Fatalf("it has %d deliveries, want 3", len(found.Deliveries))
		}
		for place, d := range found.Deliveries {
			want := db.Delivery{
				ID: db.DeliveryID(id, place), Notification: id, NotificationID: "id", Object: "conversation:id", Endpoint: endpoint, Workspace: "workspace", Topic: topic,
				Lane: n.Deliveries[place].Lane, Fixed: place > 0, State: db.Waiting, StoredAt: d.StoredAt, AgeFrom: d.StoredAt,
			}
			if place == 2 {
				want.State = db.Delivering
			}
			if d.Delivery != want || len(d.History) > 0 {
				t.Errorf("delivery %d is %+v, want %+v", place, d, want)
			}
			if d.StoredAt.Before(before) || d.StoredAt.After(after) {
				t.Errorf("it was stored at %s, want a time between %s and %s", d.StoredAt, before, after)
			}
		}
	})
}

func TestNothingCanBeStored(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) { i.store(t) })
}

func TestResultsAreInTheOrderOfTheNotifications(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		var batch []*db.NewNotification
		for n := range 60 {
			id := ""
			if n%3 > 0 {
				id = fmt.Sprint((n * 37) % 60) // neither in order nor alike in length
			}
			one := note("workspace", id)
			one.Body = fmt.Appendf(nil, "%d", n)
			if n%2 > 0 {
				one.Deliveries[0].Token = newToken()
			}
			batch = append(batch, one)
		}
		for n, id := range i.mustStore(t, batch...) {
			if got := i.notification(t, db.NotificationOf(id)); string(got.Body) != fmt.Sprint(n) {
				t.Errorf("notification %d has the id of %s", n, got.Body)
			}
		}
		for n, s := range i.store(t, batch...) {
			if known := n%3 > 0; s.Duplicate != known || (s.ID == 0) != known {
				t.Errorf("notification %d, stored again: %+v", n, s)
			}
		}
	})
}

func TestDeliveriesWithATokenAreClaimedAtOnce(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		mine, others := note("workspace", ""), note("workspace", "")
		token := newToken()
		mine.Deliveries[0].Token = token
		ids := i.mustStore(t, mine, others)
		i.wantState(t, ids[0], db.Delivering, 0)
		i.mustClaim(t, ids[1])
		i.mustFinish(t, held{db.Claimed{ID: ids[0]}, token}.outcome(db.Delivered))
		i.wantState(t, ids[0], db.Delivered, 1)
	})
}

func TestANotificationIsADuplicateInWhateverStateTheFirstOneIs(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		for _, state := range db.States {
			first := inLanes(note("workspace", string(state)), string(state), "copy")
			id := i.mustStore(t, first)[0]
			i.bring(t, string(state), state)
			before := i.details(t, id)
			again := inLanes(note("workspace", string(state)), lane, "copy")
			again.Topic, again.Deliveries[0].Token = "other", newToken()
			if s := i.store(t, again)[0]; !s.Duplicate || s.ID != 0 {
				t.Errorf("while it is %s: %+v", state, s)
			}
			if after := i.details(t, id); after.Delivery != before.Delivery {
				t.Errorf("the duplicate made %+v of %+v", after, before)
			}
		}
		if got := len(i.listIDs(t, db.Filter{})); got != 2*len(db.States) {
			t.Errorf("there are %d deliveries, want %d: copies of duplicates are not stored", got, 2*len(db.States))
		}
		if got := i.export(t); len(got) != len(db.States) {
			t.Errorf("there are %d notifications, want %d", len(got), len(db.States))
		}
	})
}

func TestDuplicates(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		other := note("workspace", "1")
		other.Endpoint = "other"
		for n, c := range []struct {
			name      string
			n         *db.NewNotification
			duplicate bool
		}{
			{"the first one is stored", note("workspace", "1"), false},
			{"a second one in the batch is a duplicate", note("workspace", "1"), true},
			{"another id is none", note("workspace", "2"), false},
			{"another workspace's is none", note("workspace 2", "1"), false},
			{"another endpoint's is none", other, false},
			{"one without an id is none", note("workspace", ""), false},
			{"nor is a second one without an id", note("workspace", ""), false},
			{"one without a workspace is none", note("", "1"), false},
			{"a second one without a workspace is a duplicate", note("", "1"), true},
			{"a third one is a duplicate, too", note("workspace", "1"), true},
		} {
			// in a batch of their own now, and in one batch below
			if s := i.store(t, c.n)[0]; s.Duplicate != c.duplicate || (s.ID == 0) != c.duplicate {
				t.Errorf("%d: %s: %+v", n, c.name, s)
			}
		}
		batch := []*db.NewNotification{note("w", "3"), note("w", "4"), note("w", "3"), note("w", ""), note("w", ""), note("w", "4"), note("workspace", "1"), note("w", "5")}
		for n, s := range i.store(t, batch...) {
			if want := n == 2 || n == 5 || n == 6; s.Duplicate != want || (s.ID == 0) != want {
				t.Errorf("in a batch, %d: %+v", n, s)
			}
		}
	})
}

func TestANotificationIsNoDuplicateOfWhatWasDropped(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		id := i.mustStore(t, note("workspace", "id"))[0]
		i.wantChanged(t, db.Change{Action: db.Drop, IDs: []int64{id}}, id)
		if again := i.mustStore(t, note("workspace", "id"))[0]; again == id {
			t.Errorf("the id %d is used again: what a person remembers of the old one would be said of the new one", id)
		}
	})
}

func TestANotificationCanHaveAHundredDeliveries(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		n := note("workspace", "id")
		var lanes []string
		for place := range db.MaxDeliveries {
			lanes = append(lanes, fmt.Sprintf("lane-%d", place))
		}
		next := note("workspace", "next")
		ids := i.mustStore(t, inLanes(n, lanes...), next)
		before := i.notification(t, db.NotificationOf(ids[1]))
		// one more must not take an id of the next notification
		if _, err := i.Change(t.Context(), db.Change{Action: db.Send, To: "one-more", Filter: db.Filter{Endpoint: endpoint}, IDs: ids[:1]}); err != nil {
			t.Logf("one more: %v", err)
		}
		after := i.notification(t, db.NotificationOf(ids[1]))
		if len(after.Deliveries) != 1 || after.Deliveries[0].Delivery != before.Deliveries[0].Delivery {
			t.Errorf("the next notification was %+v, and is %+v", before.Deliveries, after.Deliveries)
		}
		found := i.notification(t, db.NotificationOf(ids[0]))
		if len(found.Deliveries) != db.MaxDeliveries {
			t.Fatalf("it has %d deliveries, want %d", len(found.Deliveries), db.MaxDeliveries)
		}
		for place, d := range found.Deliveries {
			if d.ID != db.DeliveryID(found.ID, place) || d.Lane != lanes[place] {
				t.Errorf("delivery %d is %+v", place, d)
			}
		}
	})
}

func TestOneOfManyThatStoreTheSameAtOnceIsNoDuplicate(t *testing.T) {
	eachEngine(t, func(t *testing.T, d *database) {
		instances := d.startAll(t)
		const ids, times = 40, 6
		var mu sync.Mutex
		firsts := make(map[string]int)
		var storers sync.WaitGroup
		for n := range times {
			storers.Go(func() {
				var batch []*db.NewNotification
				for k := range ids {
					if n%2 > 0 { // in the opposite order
						k = ids - 1 - k
					}
					batch = append(batch, inLanes(note("workspace", fmt.Sprint(k)), lane, "copy"))
				}
				stored, err := instances[n%len(instances)].Store(t.Context(), func() []*db.NewNotification { return batch })
				if err != nil {
					t.Errorf("storing: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for k, s := range stored {
					if !s.Duplicate {
						firsts[batch[k].NotificationID]++
					}
				}
			})
		}
		storers.Wait()
		for id, n := range firsts {
			if n != 1 {
				t.Errorf("%s was stored %d times", id, n)
			}
		}
		if found := instances[0].listIDs(t, db.Filter{}); len(found) != 2*ids || len(firsts) != ids {
			t.Errorf("there are %d deliveries of %d notifications, want %d of %d", len(found), len(firsts), 2*ids, ids)
		}
	})
}
