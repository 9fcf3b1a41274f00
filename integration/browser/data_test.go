package browser

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
)

// row is a delivery to be written into the database of a test, with its notification.
type row struct {
	topic, lane, object string
	state, reason       string
	stored              time.Duration // ago
	attempts            int
	status              int
	err                 string
	id                  string // of the notification; made up if it is empty
}

// write writes rows into the database of a gateway that does not run.
func write(t *testing.T, path string, rows []row) {
	t.Helper()
	file, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tx, err := file.Begin()
	if err != nil {
		t.Fatal(err)
	}
	exec := func(statement string, args ...any) {
		if _, err := tx.Exec(statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for i, r := range rows {
		id := i + 1
		stored := now.Add(-r.stored)
		name := r.id
		if name == "" {
			name = fmt.Sprintf("notif_%08x-%04x-4%03x-9d2f-%012x", random.Uint32(), random.Uint32()&0xffff, random.Uint32()&0xfff, random.Uint64()&0xffffffffffff)
		}
		kind, number, _ := strings.Cut(r.object, ":")
		body := fmt.Sprintf(`{"type":"notification_event","app_id":"tulip4","data":{"type":"notification_event_data","item":{"type":%q,"id":%q,`+
			`"state":"open","source":{"type":"conversation","subject":null,"body":"<p>My order has not arrived yet. Can you help?</p>",`+
			`"author":{"type":"user","id":"6762f0dd1bb69f9f2193bb83","name":"Ada Example"}},"tags":{"type":"tag.list","tags":[]}}},`+
			`"links":{},"id":%q,"topic":%q,"delivery_status":"pending","delivery_attempts":1,"created_at":%d}`, kind, number, name, r.topic, stored.Unix())
		request := `{"method":"POST","uri":"/intercom","proto":"HTTP/1.1","host":"hooks.example.com","remote_addr":"34.231.68.152:40112","header":{` +
			`"Content-Type":["application/json"],"User-Agent":["intercom-webhooks/1.0"],"X-Hub-Signature":["sha1=6b4e2d1f0c9a8b7e6d5c4b3a29181706f5e4d3c2"]}}`
		exec(`INSERT INTO notification (id, endpoint, workspace, topic, notification_id, received_at, request, object) VALUES (?, 'intercom', 'tulip4', ?, ?, ?, ?, ?)`,
			id, r.topic, name, stored.UnixMicro()-2300, request, r.object)
		exec(`INSERT INTO body VALUES (?, ?)`, id, []byte(body))
		var finished, status, reason, text any
		due, ended := stored, stored
		delays := []time.Duration{60 * time.Millisecond, 1100 * time.Millisecond, 6 * time.Second, 38 * time.Second, 155 * time.Second, 740 * time.Second, 2500 * time.Second}
		for n := range r.attempts {
			ended = stored.Add(delays[min(n, len(delays)-1)])
			if n < r.attempts-1 || r.state != "delivered" {
				exec(`INSERT INTO attempt VALUES (?, ?, 'hooks-1 7f3a', '10.0.4.17:9000', ?, 0.041, ?, ?)`, id*100, ended.UnixMicro(), 503, "backend answered 503", []byte("<html><title>503</title>upstream connect error"))
			}
		}
		switch r.state {
		case "retrying":
			due = now.Add(40 * time.Minute)
		case "delivered", "dead":
			finished = ended.UnixMicro()
		}
		if r.attempts > 0 {
			status = r.status
		}
		if r.reason != "" {
			reason = r.reason
		}
		if r.err != "" {
			text = r.err
		}
		exec(`INSERT INTO delivery (id, notification, endpoint, lane, workspace, topic, fixed, state, reason, attempts, stored_at, age_from, due_at, finished_at, upstream, status, seconds, error)
			VALUES (?, ?, 'intercom', ?, 'tulip4', ?, ?, ?, ?, ?, ?, ?, ?, ?, '10.0.4.17:9000', ?, 0.058, ?)`,
			id*100, id, r.lane, r.topic, strings.HasPrefix(r.lane, "copy-"), r.state, reason, r.attempts, stored.UnixMicro(), stored.UnixMicro(), due.UnixMicro(), finished, status, text)
	}
	exec(`INSERT INTO lane VALUES ('intercom', 'copy-staging', ?)`, now.UnixMicro())
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// made are rows as a bad morning leaves them: a lane whose backend is down, one that fails now and then, a copy that is
// paused, and dead letters.
func made() (rows []row) {
	random := rand.New(rand.NewPCG(3, 4))
	topics := []string{"conversation.user.created", "conversation.user.replied", "conversation.admin.replied", "conversation.admin.closed", "ticket.created"}
	add := func(n int, r row, over time.Duration) {
		for range n {
			one := r
			one.stored = time.Duration(random.Int64N(int64(over))) + r.stored
			if one.topic == "" {
				one.topic = topics[random.IntN(len(topics))]
			}
			if one.object == "" {
				one.object = fmt.Sprintf("conversation:2154700%05d", random.IntN(90_000))
			}
			rows = append(rows, one)
		}
	}
	const busy = "backend answered 503"
	add(60, row{lane: "support", state: "dead", reason: "age", attempts: 7, status: 503, err: busy, topic: "conversation.user.replied", stored: 2 * time.Hour}, 5*time.Hour)
	add(23, row{lane: "crm", state: "dead", reason: "refused", attempts: 1, status: 422, err: "backend answered 422", topic: "contact.user.updated", object: "contact:6762f0dd1bb69f9f2193bb83", stored: time.Hour}, 20*time.Hour)
	add(2, row{lane: "unrouted", state: "dead", reason: "unrouted", err: "no route fits the topic", topic: "visitor.signed_up", object: "contact:6762f0dd1bb69f9f2193bb99", stored: 40 * time.Minute}, time.Hour)
	add(220, row{lane: "archive", state: "delivered", attempts: 1, status: 200}, 3*time.Hour)
	add(90, row{lane: "billing", state: "delivered", attempts: 1, status: 204, topic: "company.updated", object: "company:6a1"}, 3*time.Hour)
	add(150, row{lane: "support", state: "retrying", attempts: 5, status: 503, err: busy, stored: 20 * time.Minute}, 50*time.Minute)
	add(31, row{lane: "copy-staging", state: "waiting", topic: "conversation.user.created"}, 50*time.Minute)
	rows = append(rows, row{
		id: "notif_7abb5892-6b4e-4a0c-9d2f-51c1f7a0e6d3", topic: "conversation.user.replied", object: "conversation:215470012345", lane: "support",
		state: "delivered", attempts: 4, status: 200, stored: 12 * time.Minute,
	})
	return rows
}

// remember fills the charts with an hour as the rows tell it.
func remember() {
	random := rand.New(rand.NewPCG(5, 6))
	now := time.Now()
	ms := func(n float64) time.Duration {
		return time.Duration(n * float64(time.Millisecond) * (0.6 + random.ExpFloat64()*0.5))
	}
	for minute := range 60 {
		at := now.Add(-time.Duration(59-minute) * time.Minute)
		down := minute > 38
		for range 24 + random.IntN(14) + minute/6 {
			history.Intercom.Took(at, history.Accepted, ms(6))
			lane, took, kind := "archive", ms(35), history.Delivered
			switch random.IntN(6) {
			case 0, 1:
				lane, took = "support", ms(80)
				if down {
					kind, took = history.Failed, ms(1500)
				}
			case 2:
				lane, took = "crm", ms(240)
				if random.IntN(4) == 0 {
					kind = history.Failed
				}
			case 3:
				lane, took = "billing", ms(18)
			}
			history.Lane(lane).Count(at, history.Accepted)
			history.Lane(lane).Took(at, kind, took)
		}
	}
}
