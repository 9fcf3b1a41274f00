package dbtest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

func TestAListHasWhatIsSelectedInBothDirections(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		at := time.Now().Add(-time.Hour).Truncate(time.Second)
		of := func(n int, topic, workspace, id, laneName string, state db.State) db.Details {
			d := past(id, time.Hour, state)
			d.Workspace, d.Topic = workspace, topic
			one := &d.Deliveries[0]
			one.Workspace, one.Topic, one.Lane, one.StoredAt, one.AgeFrom = workspace, topic, laneName, at.Add(time.Duration(n)*time.Minute), at
			return d
		}
		refused := of(4, "contact.created", "w-2", "n-4", "support", db.Dead)
		refused.Deliveries[0].Reason, refused.Deliveries[0].Status, refused.Deliveries[0].Error = db.Refused, 404, `status 404: 50% "off"_\`
		refused.Deliveries[0].Upstream = "127.0.0.1:20500"
		answer := failure(3)
		answer.Upstream = refused.Deliveries[0].Upstream
		answer.Answer = []byte("no Tenant \\ Grüße\xff\x00end")
		refused.Deliveries[0].History = []db.Attempt{*answer}
		successful := of(2, "conversation.user.created", "w-1", "n-2", "crm", db.Delivered)
		successful.Deliveries[0].Attempts, successful.Deliveries[0].History = 2, []db.Attempt{*failure(3)} // not the last error
		successful.Object, refused.Object = "conversation:123", "contact:12:3"                             // an id may be anything
		elsewhere := of(5, "conversation.user.created", "w-1", "n-0", "support", db.Waiting)
		elsewhere.Object = "conversation:123"
		elsewhere.Endpoint, elsewhere.Deliveries[0].Endpoint = "other", "other"
		i.put(t,
			of(0, "conversation.user.created", "w-1", "n-0", "support", db.Waiting),
			of(1, "conversation.admin.replied", "w-2", "n-1", "support", db.Retrying),
			successful,
			of(3, "conversation", "w-1", "n-3", "crm", db.Dead),
			refused,
			elsewhere,
			of(6, "conversation.user.created", "w-10", "", "crm", db.Waiting),
		)
		i.take(t, "crm", 1)
		ids := i.listIDs(t, db.Filter{})
		if len(ids) != 6 {
			t.Fatalf("listed %d deliveries, want 6", len(ids))
		}
		number := fmt.Sprint(db.NotificationOf(ids[2]))
		for name, c := range map[string]struct {
			filter db.Filter
			want   []int
		}{
			"all":                                {db.Filter{}, []int{0, 1, 2, 3, 4, 5}},
			"an endpoint without any":            {db.Filter{Endpoint: "none"}, nil},
			"waiting ones":                       {db.Filter{States: []db.State{db.Waiting}}, []int{0}},
			"delivering ones":                    {db.Filter{States: []db.State{db.Delivering}}, []int{5}},
			"retrying ones":                      {db.Filter{States: []db.State{db.Retrying}}, []int{1}},
			"delivered ones":                     {db.Filter{States: []db.State{db.Delivered}}, []int{2}},
			"dead ones":                          {db.Filter{States: []db.State{db.Dead}}, []int{3, 4}},
			"all states":                         {db.Filter{States: db.States}, []int{0, 1, 2, 3, 4, 5}},
			"several states":                     {db.Filter{States: []db.State{db.Dead, db.Waiting}}, []int{0, 3, 4}},
			"a reason":                           {db.Filter{Reasons: []db.Reason{db.Refused}}, []int{4}},
			"several reasons":                    {db.Filter{Reasons: []db.Reason{db.Refused, db.Attempts, db.Age}}, []int{3, 4}},
			"a reason and another state":         {db.Filter{Reasons: db.Reasons, States: []db.State{db.Waiting}}, nil},
			"a topic":                            {db.Filter{Topic: "contact.created"}, []int{4}},
			"a pattern":                          {db.Filter{Topic: "conversation.*"}, []int{0, 1, 2, 5}},
			"a pattern with one in the middle":   {db.Filter{Topic: "*.admin.replied"}, []int{1}},
			"a pattern of every topic":           {db.Filter{Topic: "*"}, []int{0, 1, 2, 3, 4, 5}},
			"a prefix is no pattern":             {db.Filter{Topic: "conversation.user"}, nil},
			"a lane":                             {db.Filter{Lane: "crm"}, []int{2, 3, 5}},
			"a part of a lane":                   {db.Filter{Lane: "c"}, nil},
			"a workspace":                        {db.Filter{Workspace: "w-1"}, []int{0, 2, 3}},
			"a notification":                     {db.Filter{Notification: "n-3"}, []int{3}},
			"a notification by its number":       {db.Filter{Notification: number}, []int{2}},
			"a number that is too large":         {db.Filter{Notification: "99999999999999999999"}, nil},
			"a number of none":                   {db.Filter{Notification: "92233720368547758"}, nil},
			"a status":                           {db.Filter{Statuses: []int{500}}, []int{1, 3}},
			"a class of statuses":                {db.Filter{Statuses: []int{4, 2}}, []int{2, 4}},
			"several statuses":                   {db.Filter{Statuses: []int{500, 4}}, []int{1, 3, 4}},
			"a status that no attempt had":       {db.Filter{Statuses: []int{5000, 50, 3}}, nil},
			"an object":                          {db.Filter{Object: "conversation:123"}, []int{2}},
			"the id of an object":                {db.Filter{Object: "123"}, []int{2}},
			"an id with a colon":                 {db.Filter{Object: "12:3"}, []int{4}},
			"an object whose id has a colon":     {db.Filter{Object: "contact:12:3"}, []int{4}},
			"an object of another type":          {db.Filter{Object: "contact:123"}, nil},
			"a part of an object":                {db.Filter{Object: "conversation"}, nil},
			"a notification of an object":        {db.Filter{Object: "123", Notification: "n-2"}, []int{2}},
			"a notification of another object":   {db.Filter{Object: "123", Notification: "n-4"}, nil},
			"since":                              {db.Filter{Since: at.Add(3 * time.Minute)}, []int{3, 4, 5}},
			"until":                              {db.Filter{Until: at.Add(3 * time.Minute)}, []int{0, 1, 2}},
			"between":                            {db.Filter{Since: at.Add(90 * time.Second), Until: at.Add(4 * time.Minute)}, []int{2, 3}},
			"an error":                           {db.Filter{Error: "status 500"}, []int{1, 3}},
			"an error in other letters":          {db.Filter{Error: "TATUS 4"}, []int{4}},
			"an error with patterns":             {db.Filter{Error: `50% "off"_\`}, []int{4}},
			"patterns that are none":             {db.Filter{Error: "s%0"}, nil},
			"a character that is no pattern":     {db.Filter{Error: "status_500"}, nil},
			"an answer":                          {db.Filter{Error: `NO tenant \ `}, []int{4}},
			"an answer that is no ASCII":         {db.Filter{Error: "Grüße"}, []int{4}},
			"an answer that is no text":          {db.Filter{Error: "\xff"}, []int{4}},
			"an answer with patterns":            {db.Filter{Error: "no%Tenant"}, nil},
			"an upstream":                        {db.Filter{Error: "20500"}, nil},
			"an answer that was not the last":    {db.Filter{Error: "sorry 3"}, nil},
			"an error that was not the last one": {db.Filter{Error: "status 503"}, nil},
			"not finished after":                 {db.Filter{AsOf: time.Now().Add(-2 * time.Hour)}, []int{0, 1, 5}},
			"not finished after now":             {db.Filter{AsOf: time.Now()}, []int{0, 1, 2, 3, 4, 5}},
			"finished since":                     {db.Filter{FinishedSince: at.Add(-time.Second)}, []int{2, 3, 4}},
			"finished since a later time":        {db.Filter{FinishedSince: time.Now()}, nil},
			"finished until":                     {db.Filter{FinishedUntil: time.Now()}, []int{2, 3, 4}},
			"finished until an earlier time":     {db.Filter{FinishedUntil: at.Add(-time.Second)}, nil},
			"all at once": {db.Filter{
				States: []db.State{db.Dead}, Reasons: []db.Reason{db.Refused}, Topic: "contact.*", Lane: "support", Workspace: "w-2", Notification: "n-4", Object: "contact:12:3",
				Since: at, Until: at.Add(5 * time.Minute), Error: "404", AsOf: time.Now(),
				Statuses: []int{4}, FinishedSince: at, FinishedUntil: time.Now(),
			}, []int{4}},
		} {
			var want []int64
			for _, n := range c.want {
				want = append(want, ids[n])
			}
			for _, limit := range []int{1, 2, 6, 100} {
				if got := deliveryIDs(i.list(t, c.filter, db.Page{Limit: limit})); !slices.Equal(got, want) {
					t.Errorf("%s, %d at a time: %v, want %v of %v", name, limit, got, want, ids)
				}
				backwards := slices.Clone(want)
				slices.Reverse(backwards)
				if got := deliveryIDs(i.list(t, c.filter, db.Page{Limit: limit, Newest: true})); !slices.Equal(got, backwards) {
					t.Errorf("%s, newest first, %d at a time: %v, want %v of %v", name, limit, got, backwards, ids)
				}
			}
		}
		for _, c := range []struct {
			page db.Page
			want []int64
		}{
			{db.Page{From: ids[2], Limit: 2}, ids[2:4]},
			{db.Page{From: ids[2] + 1, Limit: 1}, ids[3:4]},
			{db.Page{From: ids[2], Limit: 2, Newest: true}, []int64{ids[2], ids[1]}},
			{db.Page{From: ids[5] + 1, Limit: 2}, nil},
			{db.Page{From: ids[5] + 1, Limit: 1, Newest: true}, ids[5:]},
		} {
			for _, filter := range []db.Filter{{Endpoint: endpoint}, {Endpoint: endpoint, States: db.States}, {Endpoint: endpoint, Topic: "*"}} {
				if got, _, err := i.List(t.Context(), filter, c.page); err != nil || !slices.Equal(deliveryIDs(got), c.want) {
					t.Errorf("%+v of %+v: %v (%v), want %v", c.page, filter, deliveryIDs(got), err, c.want)
				}
			}
		}
	})
}

// deliveryIDs returns ids in the order of the deliveries.
func deliveryIDs(of []db.Delivery) (ids []int64) {
	for _, d := range of {
		ids = append(ids, d.ID)
	}
	return ids
}

func TestAListHasAllOfADelivery(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		ids := inEachState(t, i)
		for _, id := range ids {
			found, next, err := i.List(t.Context(), db.Filter{Endpoint: endpoint}, db.Page{From: id, Limit: 1})
			if want := i.details(t, id).Delivery; err != nil || len(found) != 1 || found[0] != want {
				t.Errorf("listed %+v, next %d (%v), want %+v", found, next, err, want)
			}
		}
	})
}

func TestWhatIsRareAmongManyIsListed(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		batch := notes(12000)
		batch[10].Topic, batch[11990].Topic = "contact.created", "contact.created"
		ids := i.mustStore(t, batch...)
		for _, newest := range []bool{false, true} {
			got := idsOf(i.list(t, db.Filter{Topic: "contact.*"}, db.Page{Limit: 10, Newest: newest}), func(d db.Delivery) int64 { return d.ID })
			if want := []int64{ids[10], ids[11990]}; !slices.Equal(got, want) {
				t.Errorf("listed %v, want %v", got, want)
			}
		}
	})
}

func TestAListIsWholeWhileDeliveriesChange(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		stable := many(t, i, 300)
		i.mustStore(t, inLanes(note("workspace", "busy"), "busy"))
		ctx, stop := context.WithCancel(t.Context())
		var busy sync.WaitGroup
		busy.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				added := inLanes(note("workspace", ""), "busy")
				if _, err := i.Store(t.Context(), func() []*db.NewNotification { return []*db.NewNotification{added} }); err != nil {
					t.Errorf("storing: %v", err)
				}
				token := newToken()
				claimed, _, err := i.Claim(t.Context(), db.Claim{Lane: db.Lane{Endpoint: endpoint, Name: "busy"}, Token: token, Limit: 5, MaxBytes: 1 << 20})
				if err != nil {
					t.Errorf("claiming: %v", err)
				}
				for _, c := range claimed {
					o := held{c, token}.outcome(db.States[2+n%3])
					if _, err := i.Finish(t.Context(), []db.Outcome{o}); err != nil {
						t.Errorf("finishing: %v", err)
					}
				}
			}
		})
		for n := range 12 {
			var got []int64
			seen := make(map[int64]bool)
			for _, d := range i.list(t, db.Filter{}, db.Page{Limit: 50, Newest: n%2 > 0}) {
				if seen[d.ID] {
					t.Errorf("delivery %d was listed twice", d.ID)
				}
				if seen[d.ID] = true; d.Lane == lane {
					got = append(got, d.ID)
				}
			}
			if slices.Sort(got); !slices.Equal(got, stable) {
				t.Errorf("listed %d of those that did not change, want %d", len(got), len(stable))
			}
		}
		stop()
		busy.Wait()
	})
}

func TestFind(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		first := db.NotificationOf(i.mustStore(t, inLanes(note("w-1", "shared"), lane, "copy"))[0])
		number := fmt.Sprint(first)
		elsewhere := note("w-1", "shared")
		elsewhere.Endpoint = "other"
		i.mustStore(t, note("w-2", "shared"), elsewhere, note("w-1", number), note("w-1", ""))
		i.mustFinish(t, i.take(t, "copy", 1)[0].outcome(db.Dead))
		for _, c := range []struct {
			endpoint, id string
			limit        int
			workspaces   string
		}{
			{endpoint, "shared", 10, "w-1,w-2"},
			{endpoint, number, 10, "w-1,w-1"}, // its own, and the one that is called so
			{"other", number, 10, ""},
			{"other", "shared", 10, "w-1"},
			{endpoint, "SHARED", 10, ""},
			{endpoint, "share", 10, ""},
			{endpoint, "", 10, ""},
			{endpoint, "-1", 10, ""},
			{endpoint, "0", 10, ""},
			{endpoint, strings.Repeat("9", 30), 10, ""},
		} {
			found, err := i.Find(t.Context(), c.endpoint, c.id, c.limit)
			var workspaces []string
			for _, d := range found {
				workspaces = append(workspaces, d.Workspace)
			}
			slices.Sort(workspaces)
			if got := strings.Join(workspaces, ","); err != nil || got != c.workspaces {
				t.Errorf("found %q by %q of %s (%v), want %q", got, c.id, c.endpoint, err, c.workspaces)
			}
		}
		if found, err := i.Find(t.Context(), endpoint, "shared", 1); err != nil || len(found) != 1 {
			t.Errorf("found %d (%v), want at most 1", len(found), err)
		}
		details := i.notification(t, first).Deliveries
		if len(details) != 2 || details[0].Lane != lane || details[1].Lane != "copy" || len(details[0].History) != 0 || len(details[1].History) != 1 {
			t.Errorf("found the deliveries %+v", details)
		}
	})
}

func TestDeadGroups(t *testing.T) {
	eachDB(t, func(t *testing.T, i *instance) {
		for n := range 12 {
			d := past(fmt.Sprint("id-", n), time.Duration(n+1)*time.Hour, db.Dead, db.Delivered)
			one := &d.Deliveries[0]
			one.Error = fmt.Sprintf("error %d", n)
			switch n % 6 {
			case 1, 2:
				one.Reason = db.Refused
			case 3:
				d.Topic, one.Topic = "contact.created", "contact.created"
			case 4, 5:
				if one.Lane = "crm"; n == 11 {
					d.Endpoint = "other"
				}
			}
			i.put(t, d)
		}
		i.mustStore(t, notes(3)...)
		groups, err := i.DeadGroups(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]bool)
		last := int64(1 << 40)
		for _, g := range groups {
			got[fmt.Sprintf("%s %s %s: %d, %.0f to %.0f hours ago, %s", g.Topic, g.Lane, g.Reason, g.Count, time.Since(g.Oldest).Hours(), time.Since(g.Newest).Hours(), g.Error)] = true
			if g.Count > last {
				t.Errorf("a group of %d is behind one of %d", g.Count, last)
			}
			last = g.Count
		}
		for _, want := range []string{
			topic + " support refused: 4, 9 to 2 hours ago, error 1",
			topic + " crm attempts: 3, 11 to 5 hours ago, error 4",
			topic + " support attempts: 2, 7 to 1 hours ago, error 0",
			"contact.created support attempts: 2, 10 to 4 hours ago, error 3",
		} {
			if !got[want] || len(got) != 4 {
				t.Errorf("no %q among the groups %v", want, got)
			}
		}
	})
}
