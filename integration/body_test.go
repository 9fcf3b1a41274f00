package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// Many senders read no answer before they have sent everything.
func TestAnswerIsReadBehindABodyThatIsNotWanted(t *testing.T) {
	g := start(t, setup{webhook: "max_size 1MiB\nroute * { respond 200 }"})
	large := make([]byte, 32<<20) // more than sockets hold
	for name, c := range map[string]struct {
		header string
		status int
	}{
		"too large":    {hubHeader + ": " + hubSignature(body, secret) + "\n", 413},
		"no signature": {"", 401},
		"compressed":   {hubHeader + ": " + hubSignature(body, secret) + "\nContent-Encoding: gzip\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			// Sending takes far less than the second for which the gateway reads on, unless the
			// machine has no time for it.
			eventually(t, "an answer that can be read", func() bool {
				conn := g.dial()
				defer conn.Close()
				write(t, conn, head(c.header, large))
				if _, err := conn.Write(large); err != nil {
					return false
				}
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil && answer.StatusCode != c.status {
					t.Errorf("status %d, want %d", answer.StatusCode, c.status)
				}
				return err == nil
			})
		})
	}
}

func TestStrangerIsNotReadFrom(t *testing.T) {
	g := start(t, setup{allow: "static 192.0.2.1"})
	conn := g.dial()
	write(t, conn, "POST / HTTP/1.1\nHost: gateway\nContent-Length: 1000000000\n\n")
	if answer := read(t, conn); answer.status != 403 {
		t.Errorf("status %d, want 403", answer.status)
	}
	if n, err := io.Copy(conn, io.LimitReader(zeros{}, 1e9)); err == nil {
		t.Errorf("%d bytes of the body were taken", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Whoever may send, but cannot sign, must not keep out those who can.
func TestSlowBodiesGiveWayToOthers(t *testing.T) {
	b := newBackend(t, nil)
	g := start(t, setup{webhook: "timeout 10m\nroute * to " + b.address})
	large := bytes.Replace(body, []byte("ça va"), bytes.Repeat([]byte("long"), 1<<20-1<<10), 1)
	const slow, genuine = 30, 8
	before, again := g.scrape(), 0
	var senders []net.Conn
	for range slow {
		conn := g.dial()
		senders = append(senders, conn)
		write(t, conn, head(hubHeader+": "+hubSignature(body, secret)+"\n", large))
		_, _ = conn.Write(large[:len(large)-1]) // an error is that the gateway gave it up
	}
	for i := range genuine {
		eventually(t, fmt.Sprintf("large body %d is accepted", i+1), func() bool {
			if g.send(signed(large)).status == 200 {
				return true
			}
			again++
			return false
		})
	}
	for _, conn := range senders {
		conn.Close()
	}
	eventually(t, "no body is left to the next test", func() bool {
		refused := g.scrape().since(before)
		return refused[`refused_total{reason="body"}`]+refused[`refused_total{reason="memory"}`] >= float64(slow+again)
	})
}
