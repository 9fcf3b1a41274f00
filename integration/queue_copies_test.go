package integration

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"
)

// queuedOn makes the setup of a process with a queue, on one engine.
type queuedOn func(routes, options string) setup

// from is a notification of a workspace.
func from(workspace, topic, id string) []byte {
	return bytes.Replace(notification(topic, id), []byte(`"app_id":"tulip4"`), []byte(`"app_id":"`+workspace+`"`), 1)
}

func TestQueueCopies(t *testing.T) {
	p := newProcess(t)
	testCopies(t, p, p.queued)
}

// testCopies sends to routes for workspaces and to copies, one of which hangs.
func testCopies(t *testing.T, p *process, queued queuedOn) {
	const stagingSecret = "5e7-of-the-staging-app"
	t.Setenv("STAGING_SECRET", stagingSecret)
	hanging := newBackend(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	tulip, others, sampled := newTally(t, 0), newTally(t, 0), newTally(t, 0)
	staging := newBackend(t, nil)
	routes := "copy conversation.* as stuck to " + hanging.address +
		"\ncopy * to " + sampled.address + " {\nsample 37.5%\n}" +
		"\ncopy contact.* for tulip4 as staging to " + staging.address + " {\nresign {env.STAGING_SECRET}\n}" +
		"\nroute * for tulip4 as tulip to " + tulip.address +
		"\nroute conversation.* contact.* as others to " + others.address
	p.start(queued(routes, "workers 4\ndelivery_timeout 1h"))
	t.Cleanup(p.kill) // or else the backend that hangs would wait for it

	// a copy that hangs touches neither the route nor the answers
	load := p.burst("conversation.user.created", 4, time.Millisecond)
	load.waitFor(t, 300)
	stored := load.end()
	wantAll(t, stored, tulip)
	if len(load.others) > 0 {
		t.Errorf("not answered with 200: %v", load.others)
	}
	p.wantDeliveries("stuck", "delivered", 0)
	p.wantDeliveries("tulip", "delivered", len(stored))
	if n := len(hanging.all()); n != 4 {
		t.Errorf("%d copies are under way to the backend that hangs, want 4", n)
	}

	// by workspace
	rose := newID()
	p.expect(http.StatusOK, signed(from("rose5", "conversation.user.created", rose)))
	wantAll(t, []string{rose}, others)
	if tulip.count(rose) > 0 {
		t.Error("the route of another workspace got it")
	}

	// signed anew, and only for the workspace
	rose, id := newID(), newID()
	p.expect(http.StatusOK, signed(from("rose5", "contact.user.created", rose)))
	p.expect(http.StatusOK, signed(from("tulip4", "contact.user.created", id)))
	eventually(t, "the copy for staging", func() bool { return len(staging.all()) > 0 })
	wantAll(t, []string{rose}, others)
	wantAll(t, []string{id}, tulip)
	got := staging.only(t)
	want := from("tulip4", "contact.user.created", id)
	if !bytes.Equal(got.body, want) || !slices.Equal(got.header[hubHeader], []string{hubSignature(want, stagingSecret)}) || len(got.header[bodyHeader]) > 0 {
		t.Errorf("staging got %q with the signatures %q %q", got.body, got.header[hubHeader], got.header[bodyHeader])
	}

	// what is sent again is neither delivered nor copied again, and counts as one
	before := p.scrape()
	p.expect(http.StatusOK, signed(want))
	since := p.scrape().since(before)
	if since[`notifications_total{outcome="duplicate",topic="contact.user.created"}`] != 1 || since[`notifications_total{outcome="queued",topic="contact.user.created"}`] != 0 {
		t.Errorf("counted as %v", since.of("notifications_total"))
	}
	staging.wantCount(t, 1)
	wantNoneTwice(t, tulip)

	// no route takes this one
	lost := newID()
	within(t, longPatience, "one that no route takes is copied", func() bool {
		if sampled.count(lost) > 0 {
			return true
		}
		lost = newID()
		stored = append(stored, lost)
		p.expect(http.StatusOK, signed(from("rose5", "ticket.created", lost)))
		return false
	})

	p.wantMetric(`queue_deliveries{lane="copy-default",state="waiting"}`, 0)
	p.wantMetric(`queue_deliveries{lane="copy-default",state="delivering"}`, 0)
	left := missing(stored, sampled)
	if share := float64(len(left)) / float64(len(stored)); share < 0.5 || share > 0.75 {
		t.Errorf("%d of %d were not copied, want about 62.5%%", len(left), len(stored))
	}
	wantNoneTwice(t, sampled)
}

func TestQueueSampleAgrees(t *testing.T) {
	p := newProcess(t)
	b, copied := newTally(t, 0), newTally(t, 0)
	routes := "route * to " + b.address + "\ncopy * to " + copied.address + " {\nsample 50%\n}"
	p.start(p.queued(routes, ""))
	var stored []string
	for range 60 {
		stored = append(stored, p.post(topic))
	}
	p.idle()
	p.store += "2" // where they are not known
	p.reload(p.queued(routes, ""))
	for _, id := range stored {
		p.expect(http.StatusOK, signed(notification(topic, id)))
	}
	p.idle()
	in := 0
	for _, id := range stored {
		if n := copied.count(id); n == 1 || n > 2 || b.count(id) != 2 {
			t.Errorf("%s was copied %d times of 2, and delivered %d times", id, n, b.count(id))
		}
		if copied.count(id) > 0 {
			in++
		}
	}
	if in < 10 || in > 50 {
		t.Errorf("%d of %d are in the sample of 50%%", in, len(stored))
	}
}

func TestQueueCopiesAreNeverLost(t *testing.T) {
	p := newProcess(t)
	testCopiesAreNeverLost(t, p, p.queued, 6)
}

// testCopiesAreNeverLost kills and reloads in the middle of load. What was answered with 200
// must reach the route and the copy, which is slower. It may have been stored before the kill,
// and be a duplicate when it is sent again.
func testCopiesAreNeverLost(t *testing.T, p *process, queued queuedOn, kills int) {
	b, slow := newTally(t, 0), newTally(t, 60*time.Millisecond)
	left, resent := 0, 0
	routes := "route * to " + b.address + "\ncopy * as slow to " + slow.address
	p.start(queued(routes, ""))
	var stored []string
	for i := range kills {
		load := p.burst(topic, 8, time.Millisecond)
		load.waitFor(t, 50)
		p.reload(queued(routes, []string{"workers 4", "workers 32"}[i%2]))
		load.waitFor(t, 100)
		time.Sleep(rand.N(50 * time.Millisecond))
		p.kill()
		stored = append(stored, load.end()...)
		left += len(missing(stored, slow))
		p.start(queued(routes, ""))
		resent += len(load.unsure)
		stored = append(stored, load.resend(p)...)
	}
	wantAll(t, stored, b)
	wantAll(t, stored, slow)
	if left == 0 {
		t.Error("no copy was left at any kill, so nothing was to be recovered")
	}
	t.Logf("killed %d times: %d stored, %d of them sent again, %d copies left at the kills, 0 lost", kills, len(stored), resent, left)
}
