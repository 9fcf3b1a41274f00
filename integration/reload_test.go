package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// Reloads in the middle of load lose nothing that is answered, and let nothing wrong in.
// They break no more of the connections that are just being opened than those to a site
// without this module, in the same Caddy: net/http drops some when a server is shut down.
func TestReloadUnderLoad(t *testing.T) {
	const reloads, perReload = 10, 20
	first, second := newBackend(t, nil), newBackend(t, nil)
	configs := []setup{
		{webhook: "timeout 4s\nroute conversation.* to " + first.address + "\nroute * to " + second.address},
		{webhook: "timeout 3s\nroute conversation.* as talk to " + second.address + "\nroute * { error 500 }\napp_requests { respond 200 }"},
		{webhook: "route conversation.user.replied to " + nobody + " " + first.address + " " + second.address + "\nroute * { error 500 }", secrets: "new-secret " + secret},
	}
	g := start(t, configs[0])
	// A connection that Caddy closes while a request is on its way to it would
	// look like one that was dropped.
	g.client.Transport.(*http.Transport).DisableKeepAlives = true

	hostile := []message{
		{body: body},
		good.with(hubHeader, hubSignature(body, "another")),
		good.with(hubHeader, "sha1=00"),
		good.with(hubHeader, hubSignature(body, secret), hubSignature(body, secret)),
		{method: "GET", header: good.header},
		signed([]byte(`{"topic":"conversation.user.replied","topic":"ping"}`)),
		signed(notification("conversation user", "notif_hostile")),
		{body: notification(topic, "notif_hostile"), header: good.header},
		{body: notification(topic, "notif_hostile"), header: good.header, chunked: true},
	}

	var senders sync.WaitGroup
	var answered, broken, bareBroken atomic.Int64
	stop := make(chan struct{})
	sent := make([][]string, 4) // ids that were answered, by sender
	var unanswered sync.Map     // ids
	keepSending := func(send func(i int)) {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					send(i)
				}
			}
		})
	}
	for sender := range sent {
		keepSending(func(i int) {
			id := fmt.Sprintf("notif_%d_%d", sender, i)
			status, err := postOnce(g.client, "http://127.0.0.1:"+g.port, notification(topic, id))
			switch {
			case err != nil:
				broken.Add(1) // Intercom sends it again
				unanswered.Store(id, true)
			case status != 200:
				t.Errorf("%s: status %d, want 200", id, status)
			default:
				sent[sender] = append(sent[sender], id)
			}
			answered.Add(1)
		})
		keepSending(func(int) {
			status, err := postOnce(g.client, "http://"+g.metrics+"/bare", body)
			switch {
			case err != nil:
				bareBroken.Add(1)
			case status != 200:
				t.Errorf("bare site: status %d, want 200", status)
			}
		})
	}
	for range 2 {
		keepSending(func(i int) {
			answer, err := g.do(func() (*http.Request, error) { return g.request(hostile[i%len(hostile)]) })
			if err != nil || answer.status < 400 || answer.status >= 500 {
				t.Errorf("hostile request %d: status %d, error %v; want it to be refused", i%len(hostile), answer.status, err)
			}
		})
	}

	for i := range reloads {
		// reloads follow the load, not the clock
		goal := answered.Load() + perReload
		eventually(t, "notifications being answered", func() bool { return answered.Load() >= goal })
		if err := g.load(configs[(i+1)%len(configs)]); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
	}
	close(stop)
	senders.Wait()

	arrived := make(map[string]int)
	for _, b := range []*backend{first, second} {
		for _, got := range b.all() {
			if got.header.Get(hubHeader) != hubSignature(got.body, secret) {
				t.Errorf("a backend got %q, which is not signed", got.body)
			}
			arrived[got.header.Get("X-Intercom-Notification-Id")]++
		}
	}
	total := 0
	for _, ids := range sent {
		total += len(ids)
		for _, id := range ids {
			if arrived[id] == 0 {
				t.Errorf("%s reached no backend", id)
			}
			delete(arrived, id)
		}
	}
	for id := range arrived {
		if _, ok := unanswered.Load(id); ok {
			delete(arrived, id)
		}
	}
	if len(arrived) != 0 {
		t.Errorf("backends got what no valid sender sent: %v", arrived)
	}
	// both are few, so there must be room for chance
	if n, bare := broken.Load(), bareBroken.Load(); n > bare+20 {
		t.Errorf("%d connections broke, and %d to a site without this module", n, bare)
	} else {
		t.Logf("%d answered, %d connections broke, and %d to a site without this module", total, n, bare)
	}
	if total < reloads*perReload {
		t.Errorf("only %d notifications were sent", total)
	}
}

// postOnce sends a signed body on a connection of its own, and once only.
func postOnce(client *http.Client, url string, body []byte) (status int, err error) {
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set(hubHeader, hubSignature(body, secret))
	response, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	answer, err := readReply(response)
	return answer.status, err
}

// A notification that is under way when a config is replaced is still handled by
// that config, and must not be lost either.
func TestNotificationUnderWayDuringAReload(t *testing.T) {
	for name, hangsUp := range map[string]bool{
		"is answered":                            false,
		"is sent again if its upstream hangs up": true,
	} {
		t.Run(name, func(t *testing.T) {
			asked, reloaded := make(chan struct{}), make(chan struct{})
			upstream := newRawBackend(t, func(conn net.Conn, place int, _ []byte) {
				if place == 1 {
					close(asked)
					<-reloaded
				}
				if place > 1 || !hangsUp {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			})
			release := sync.OnceFunc(func() { close(reloaded) })
			t.Cleanup(release) // before the upstream is waited for
			g := start(t, setup{webhook: "route * to " + upstream})

			answers := make(chan reply, 1)
			go func() {
				answer, _ := g.try(good) // an error is a status of 0
				answers <- answer
			}()
			<-asked
			if err := g.load(setup{webhook: "route * { error 500 }"}); err != nil {
				t.Fatal(err)
			}
			release()
			if answer := <-answers; answer.status != 200 {
				t.Errorf("status %d, want 200", answer.status)
			}
		})
	}
}

// A config that does not load leaves the running one alone.
func TestFailedReloadLeavesTheGatewayRunning(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + b.address})
	for _, bad := range []setup{
		{secrets: "{env.GATEWAY_TEST_UNSET}"},
		{webhook: "route * { respond 200 }", allow: "static nonsense"},
		{webhook: "route wrong:pattern { respond 200 }"},
	} {
		if err := g.load(bad); err == nil {
			t.Errorf("%+v was loaded", bad)
		}
	}
	g.expect(200, good)
	g.expect(401, message{body: body})
	b.wantCount(t, 1)
	if got := g.scrape().of("notifications_total"); len(got) == 0 {
		t.Error("the metrics are gone")
	}
}
