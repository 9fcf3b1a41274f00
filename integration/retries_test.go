package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hangingUp is a backend that reads the whole body and hangs up on those
// connections that it is told to; others get 200. All bodies must be whole.
func hangingUp(t *testing.T, on func(place int) bool) (address string) {
	return newRawBackend(t, func(conn net.Conn, place int, got []byte) {
		if !bytes.HasPrefix(bytes.TrimLeft(got, " "), []byte(`{"type"`)) || !bytes.HasSuffix(got, []byte(`"self":null}`)) {
			t.Errorf("the backend got the body %q", got)
		}
		if !on(place) {
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
		}
	})
}

func TestNotificationGoesToTheNextUpstream(t *testing.T) {
	always := func(int) bool { return true }
	alternately := func(place int) bool { return place%2 == 1 }
	for name, bad := range map[string]func(t *testing.T) string{
		"when one is down":                            func(*testing.T) string { return nobody },
		"when one hangs up after reading":             func(t *testing.T) string { return hangingUp(t, always) },
		"when one hangs up on every other":            func(t *testing.T) string { return hangingUp(t, alternately) },
		"when one says what is no HTTP":               func(t *testing.T) string { return saying(t, "SSH-2.0-OpenSSH_9.9\n") },
		"when one hangs up in the middle of a header": func(t *testing.T) string { return saying(t, "HTTP/1.1 200 OK\nContent-") },
	} {
		for _, order := range []string{"bad first", "bad last"} {
			t.Run(name+", "+order, func(t *testing.T) {
				b := newBackend(t, nil)
				upstreams := bad(t) + " " + b.address
				if order == "bad last" {
					upstreams = b.address + " " + bad(t)
				}
				g := start(t, setup{webhook: "route * to " + upstreams})

				sent := make(map[string]bool)
				for i := range 50 {
					m := signed(notification(topic, fmt.Sprint("notif_", i)))
					sent[string(m.body)] = true
					if answer := g.send(m); answer.status != 200 {
						t.Fatalf("notification %d: status %d, want 200", i, answer.status)
					}
				}
				got := b.all()
				if len(got) == 0 {
					t.Error("the good upstream got nothing")
				}
				for _, r := range got {
					if !sent[string(r.body)] || r.length != int64(len(r.body)) || r.header.Get(hubHeader) != hubSignature(r.body, secret) {
						t.Fatalf("the good upstream got %q with length %d and header %v", r.body, r.length, r.header)
					}
				}
			})
		}
	}
}

// No number of dead ones makes a notification fail.
func TestNotificationGoesToTheNextDynamicUpstream(t *testing.T) {
	for name, upstreams := range map[string]string{
		"beside none":              "",
		"beside a static upstream": nobody, // it is for when the source fails, as in reverse_proxy
	} {
		for _, options := range []string{"", "lb_policy first"} {
			t.Run(name+", "+options, func(t *testing.T) {
				b := newBackend(t, nil)
				_, port, _ := net.SplitHostPort(b.address)
				var sources string
				for _, port := range []string{"1", "2", "3", "4", "5", port} {
					sources += "a {\nname localhost\nport " + port + "\nversions ipv4\n}\n"
				}
				g := start(t, setup{webhook: "route * to " + upstreams + " {\ndynamic multi {\n" + sources + "}\n" + options + "\n}"})
				for i := range 12 {
					g.expect(200, signed(notification(topic, fmt.Sprint("notif_", i))))
				}
				b.wantCount(t, 12)
			})
		}
	}
}

// severing is a backend that takes each notification whole, and then says what is no answer.
func severing(t *testing.T, instead string) *backend {
	return newBackend(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, instead)
		conn.Close()
	})
}

// noAnswers are what a backend says that may have taken a notification, but does not answer.
var noAnswers = map[string]string{"nothing": "", "no HTTP": "SSH-2.0-OpenSSH_9.9\r\n\r\n", "half a header": "HTTP/1.1 200 OK\r\nContent-"}

// net/http sends some requests again by itself when a connection that it reuses breaks.
func TestABrokenConnectionThatIsReusedIsOneTry(t *testing.T) {
	var breaking atomic.Bool
	b := newBackend(t, func(http.ResponseWriter, *http.Request) {
		if breaking.Load() {
			panic(http.ErrAbortHandler)
		}
	})
	g := start(t, setup{webhook: "route * to " + b.address})
	for range 3 {
		g.expect(200, good)
	}
	breaking.Store(true)
	g.expect(502, good)
	b.wantCount(t, 3+3)
}

func TestWithoutAQueueANotificationIsSentThreeTimes(t *testing.T) {
	for name, says := range noAnswers {
		for upstreams, want := range map[string][]int{
			"B0": {3},
			"{\ndynamic a localhost P0 {\nversions ipv4\n}\n}": {3},
			"B0 B1 { lb_policy first }":                        {2, 1},
			"B0 B1 B2 B3":                                      {1, 1, 1, 1},
		} {
			t.Run(name+", to "+strings.Fields(upstreams)[0], func(t *testing.T) {
				var backends []*backend
				route := "route * to " + upstreams
				for i := range want {
					b := severing(t, says)
					_, port, _ := net.SplitHostPort(b.address)
					route = strings.NewReplacer(fmt.Sprint("B", i), b.address, fmt.Sprint("P", i), port).Replace(route)
					backends = append(backends, b)
				}
				start(t, setup{webhook: route}).expect(502, good)
				for i, b := range backends {
					b.wantCount(t, want[i])
				}
			})
		}
	}
}

// A notification that may have been taken waits for its next attempt. Only what could not be
// sent goes to the next upstream at once.
func TestAnAttemptOfAQueueSendsOnce(t *testing.T) {
	for name, says := range noAnswers {
		t.Run(name, func(t *testing.T) {
			b := severing(t, says)
			g := newGateway(t)
			upstreams := nobody + " " + b.address + " " + nobodyElse + " " + b.address
			if err := g.load(setup{webhook: "route * to " + upstreams + " { lb_policy first }\nqueue {\npath " + filepath.Join(g.dir, "queue.db") + "\n}"}); err != nil {
				t.Fatal(err)
			}
			g.expect(200, good)
			sent := make(map[string]int)
			eventually(t, "a second attempt", func() bool {
				clear(sent)
				for _, r := range b.all() {
					sent[r.header.Get("X-Intercom-Attempt")]++
				}
				return sent["2"] > 0
			})
			if sent["1"] != 1 || sent["2"] != 1 {
				t.Errorf("sent so often, by attempt: %v; want once each", sent)
			}
		})
	}
}

// A body is read only once, so Caddy's own reverse_proxy sends the second one what is left.
func TestASecondProxyGetsTheWholeBody(t *testing.T) {
	const onward = "@bad status 4xx 5xx\nhandle_response @bad {\nreverse_proxy SECOND\n}\n"
	for name, route := range map[string]string{
		"in the options of to":    "route * to FIRST {\n" + onward + "}",
		"in a block":              "route * {\nreverse_proxy FIRST {\n" + onward + "}\n}",
		"in a block in a block":   "route * {\nhandle {\nroute {\nreverse_proxy FIRST {\n" + onward + "}\n}\n}\n}",
		"behind another one":      "route * to FIRST {\nhandle_response {\nreverse_proxy FIRST {\n" + onward + "}\n}\n}",
		"behind intercept":        "route * {\nintercept {\n" + onward + "}\nreverse_proxy FIRST\n}",
		"behind forward_auth":     "route * {\nforward_auth OKAY {\nuri /auth\n}\nreverse_proxy SECOND\n}",
		"behind a placeholder":    "route * {\nvars body {http.request.body}\nreverse_proxy SECOND\n}",
		"that is the next try":    "route * {\nreverse_proxy " + "SEVERING SECOND {\nlb_policy first\nlb_retries 1\nlb_retry_match method POST\n}\n}",
		"as a retry of an answer": "route * {\nreverse_proxy FIRST SECOND {\nlb_policy first\nlb_retries 1\nlb_retry_match `{rp.status_code} == 500`\n}\n}",
	} {
		for _, queue := range []string{"", "\nqueue {\npath "} {
			t.Run(fmt.Sprintf("%s, with a queue: %t", name, queue != ""), func(t *testing.T) {
				first := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
				second := newBackend(t, nil)
				g := newGateway(t)
				if queue != "" {
					queue += filepath.Join(g.dir, "queue.db") + "\n}"
				}
				webhook := strings.NewReplacer("FIRST", first.address, "SECOND", second.address, "SEVERING", severing(t, "").address,
					"OKAY", answering(t, 200).address).Replace(route)
				if err := g.load(setup{webhook: webhook + queue}); err != nil {
					t.Fatal(err)
				}
				large := signed(append(bytes.Repeat([]byte(" "), 1<<20), body...))
				g.expect(200, large)
				eventually(t, "a notification at the second", func() bool { return len(second.all()) > 0 })
				if got := second.only(t); !bytes.Equal(got.body, large.body) {
					t.Errorf("the second got %d bytes, want %d", len(got.body), len(large.body))
				}
			})
		}
	}
	t.Run("of an app request", func(t *testing.T) {
		first, second := answering(t, 500), newBackend(t, nil)
		g := start(t, setup{webhook: "app_requests {\n" + strings.NewReplacer("SECOND", second.address).Replace("reverse_proxy "+first.address+" {\n"+onward+"}\n}")})
		g.expect(200, signedApp(body))
		if got := second.only(t); !bytes.Equal(got.body, body) {
			t.Errorf("the second got %q", got.body)
		}
	})
}

// What is left of a refused body is nothing that a proxy could send.
func TestAProxyOfHandleErrorsGetsNoBody(t *testing.T) {
	pages := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	large := append(bytes.Repeat([]byte(" "), 1<<20), body...)
	for name, c := range map[string]struct {
		allow string
		send  message
	}{
		"of a stranger":                 {"static 192.0.2.1", good},
		"without a signature":           {"", message{body: large}},
		"that is too large":             {"", signed(large)},
		"signed with another secret":    {"", good.with(hubHeader, hubSignature(body, "another"))},
		"signed, but without an object": {"", signed([]byte("[]"))},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, setup{allow: c.allow, webhook: "max_size 100KiB\nroute * { respond 200 }", behind: "handle_errors {\nreverse_proxy " + pages.address + "\n}"})
			g.expect(http.StatusTeapot, c.send)
			got := pages.all()
			if last := got[len(got)-1]; len(last.body) > 0 || last.length > 0 {
				t.Errorf("the proxy sent %d bytes, announced as %d", len(last.body), last.length)
			}
		})
	}
}

func TestTheProxyThatFailedIsBlamed(t *testing.T) {
	first := answering(t, 500)
	for second, want := range map[string]string{
		nobody:                        "backend could not be reached: connection refused",
		answering(t, 404).address:     "backend answered 404",
		severing(t, "").address:       "backend hung up before it answered",
		"https://" + first.address:    "TLS handshake with the backend failed: the backend does not speak TLS on this port",
		saying(t, "\x15\x03\x01\x00"): "backend's answer is TLS: write https:// before the upstream",
	} {
		t.Run(want, func(t *testing.T) {
			g := start(t, setup{webhook: "route * to " + first.address + " {\n@bad status 5xx\nhandle_response @bad {\nreverse_proxy " + second + "\n}\n}"})
			g.expect(502, good)
			lines := g.warnings("notification was not delivered")
			if len(lines) != 1 || lines[0].text("error") != want || lines[0].text("upstream") != strings.TrimPrefix(second, "https://") {
				t.Errorf("the log has %v, want %q of %s", lines, want, second)
			}
		})
	}
}

func TestManyAtOnceGoToTheNextUpstream(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + nobody + " " + hangingUp(t, func(int) bool { return true }) + " " + b.address})
	var senders sync.WaitGroup
	for sender := range 8 {
		senders.Go(func() {
			for i := range 10 {
				m := signed(notification(topic, fmt.Sprintf("notif_%d_%d", sender, i)))
				if answer, err := g.try(m); err != nil || answer.status != 200 {
					t.Errorf("notification %d of sender %d: status %d, error %v; want 200", i, sender, answer.status, err)
				}
			}
		})
	}
	senders.Wait()
	b.wantCount(t, 80)
}

func TestLargeNotificationGoesToTheNextUpstream(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "route * to " + hangingUp(t, func(int) bool { return true }) + " " + b.address + " { lb_policy first }"})
	large := append(bytes.Repeat([]byte(" "), 4<<20-len(body)), body...)
	g.expect(200, signed(large))
	if got := b.only(t); !bytes.Equal(got.body, large) || got.length != int64(len(large)) {
		t.Errorf("%d bytes arrived, of length %d; want %d", len(got.body), got.length, len(large))
	}
}

func TestOneUpstreamThatHangsUpOnceIsAskedAgain(t *testing.T) {
	g := start(t, setup{webhook: "route * to " + hangingUp(t, func(place int) bool { return place == 1 })})
	for range 3 {
		g.expect(200, good)
	}
}

// A refusal is an answer: the next upstream would get the notification twice.
func TestAnswerOfAnUpstreamIsNotRetried(t *testing.T) {
	for _, status := range []int{400, 404, 410, 429, 500, 502, 503} {
		first, second := answering(t, status), newBackend(t, nil)
		g := start(t, setup{webhook: "route * to " + first.address + " " + second.address + " { lb_policy first }"})
		if answer := g.send(good); answer.status < 502 {
			t.Errorf("backend said %d: status %d", status, answer.status)
		}
		first.wantCount(t, 1)
		second.wantCount(t, 0)
	}
}

// An HTTP/2 backend that shuts down says which requests it has not looked at. The
// transport sends these again by itself, if it can have the body once more.
func TestBodyCanBeSentAgainByTheTransport(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	bodies := make(chan []byte, 2)
	go func() {
		for place := 1; ; place++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			bodies <- serveHTTP2Once(conn, place == 1)
		}
	}()

	// no retries of reverse_proxy's own
	g := start(t, setup{webhook: "route * {\nreverse_proxy h2c://" + listener.Addr().String() + "\n}"})
	g.expect(200, good)
	for place := range 2 {
		select {
		case got := <-bodies:
			if !bytes.Equal(got, body) {
				t.Errorf("connection %d got the body %q, want it whole", place, got)
			}
		case <-time.After(patience):
			t.Fatalf("there was no connection %d", place)
		}
	}
}

// serveHTTP2Once reads one request and returns its body. It answers 200, or shuts
// down and says that it has looked at no request.
func serveHTTP2Once(conn net.Conn, shutDown bool) (body []byte) {
	const (
		data, headers, settings, goAway = 0, 1, 4, 7
		endStream, endHeaders           = 1, 4
	)
	frame := func(kind, flags, stream byte, payload ...byte) {
		_, _ = conn.Write(append([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, stream}, payload...))
	}
	if _, err := io.CopyN(io.Discard, conn, int64(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
		return nil
	}
	frame(settings, 0, 0)
	for head := make([]byte, 9); ; {
		if _, err := io.ReadFull(conn, head); err != nil {
			return body
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			return body
		}
		if head[3] == data {
			body = append(body, payload...)
		}
		if head[3] != data || head[4]&endStream == 0 {
			continue
		}
		if shutDown {
			frame(goAway, 0, 0, make([]byte, 8)...) // last stream 0, no error
		} else {
			frame(headers, endHeaders|endStream, head[8], 0x88) // :status 200
		}
		return body
	}
}

func TestOwnOptionsOfReverseProxyWin(t *testing.T) {
	t.Run("number of retries", func(t *testing.T) {
		b := newBackend(t, nil)
		upstreams := nobody + " " + nobodyElse + " " + b.address
		g := start(t, setup{webhook: "route conversation.* to " + upstreams + " { lb_policy first\nlb_retries 1 }\nroute * to " + upstreams + " { lb_policy first }"})
		g.expect(502, good)
		b.wantCount(t, 0)
		g.expect(200, signed(notification("ticket.created", "notif_1")))
		b.wantCount(t, 1)
	})
	t.Run("what is retried", func(t *testing.T) {
		b := newBackend(t, nil)
		hangs := hangingUp(t, func(int) bool { return true })
		g := start(t, setup{webhook: "route * to " + hangs + " " + b.address + " { lb_policy first\nlb_retry_match method GET }"})
		g.expect(502, good)
		b.wantCount(t, 0)
	})
	t.Run("headers", func(t *testing.T) {
		b := newBackend(t, nil)
		g := start(t, setup{webhook: "route * to " + b.address + " { header_up X-Mine {http.intercom_webhook.topic}\nrewrite /mine }"})
		g.expect(200, good)
		if got := b.only(t); got.header.Get("X-Mine") != topic || got.uri != "/mine" {
			t.Errorf("the backend got %s with X-Mine %q", got.uri, got.header.Get("X-Mine"))
		}
	})
	t.Run("response handlers", func(t *testing.T) {
		b := newBackend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
		g := start(t, setup{webhook: "route * to " + b.address + " {\n@gone status 410\nhandle_response @gone {\nrespond 200\n}\n}"})
		g.expect(200, good)
	})
}
