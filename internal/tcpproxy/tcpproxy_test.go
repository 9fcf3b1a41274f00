package tcpproxy

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers each line with itself, and counts the lines that it has got.
type echo struct {
	net.Listener
	lines atomic.Int32
}

func startEcho(t *testing.T) *echo {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	e := &echo{Listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					e.lines.Add(1)
					conn.Write(append(lines.Bytes(), '\n'))
				}
			}()
		}
	}()
	return e
}

func startProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := Start(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// caller is a client of an echo.
type caller struct {
	net.Conn
	t     *testing.T
	lines *bufio.Reader
}

func call(t *testing.T, p *Proxy) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &caller{conn, t, bufio.NewReader(conn)}
}

func (c *caller) say(line string) {
	c.t.Helper()
	if _, err := c.Write([]byte(line + "\n")); err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) wantAnswer(want string) {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := c.lines.ReadString('\n'); err != nil || got != want+"\n" {
		c.t.Errorf("the answer is %q (%v), want %q", got, err, want)
	}
}

func (c *caller) wantSilence() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := c.lines.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the answer is %q (%v), want none yet", got, err)
	}
}

func (c *caller) wantEnd() {
	c.t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := c.lines.ReadString('\n'); err == nil || got != "" || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the answer is %q (%v), want the end of the connection", got, err)
	}
}

func (e *echo) wantLines(t *testing.T, want int32) {
	t.Helper()
	for range 1000 {
		if e.lines.Load() >= want {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if got := e.lines.Load(); got != want {
		t.Errorf("the server got %d lines, want %d", got, want)
	}
}

func TestForwards(t *testing.T) {
	p := startProxy(t, startEcho(t).Addr().String())
	one, two := call(t, p), call(t, p)
	one.say("a")
	two.say("b")
	one.wantAnswer("a")
	two.wantAnswer("b")
	one.say("c")
	one.wantAnswer("c")
}

func TestCutResetsAllConnections(t *testing.T) {
	p := startProxy(t, startEcho(t).Addr().String())
	callers := []*caller{call(t, p), call(t, p)}
	for _, c := range callers {
		c.say("a")
		c.wantAnswer("a")
	}
	p.Cut()
	for _, c := range callers {
		c.wantEnd()
	}
	again := call(t, p)
	again.say("b")
	again.wantAnswer("b")
}

func TestRetargetLeavesOpenConnections(t *testing.T) {
	one, two := startEcho(t), startEcho(t)
	p := startProxy(t, one.Addr().String())
	before := call(t, p)
	before.say("a")
	before.wantAnswer("a")
	p.Retarget(two.Addr().String())
	after := call(t, p)
	before.say("b")
	before.wantAnswer("b")
	after.say("c")
	after.wantAnswer("c")
	one.wantLines(t, 2)
	two.wantLines(t, 1)
}

func TestStallInEachDirection(t *testing.T) {
	for _, c := range []struct {
		name      string
		direction Direction
		arrives   bool // the request, while it is stalled
	}{
		{"requests", Requests, false},
		{"replies", Replies, true},
		{"both", Both, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startEcho(t)
			p := startProxy(t, server.Addr().String())
			before := call(t, p)
			before.say("a")
			before.wantAnswer("a")
			p.Stall(c.direction)
			after := call(t, p)
			before.say("b")
			after.say("c")
			before.wantSilence()
			after.wantSilence()
			if c.arrives {
				server.wantLines(t, 3)
			} else {
				server.wantLines(t, 1)
			}
			p.Resume()
			before.wantAnswer("b")
			after.wantAnswer("c")
		})
	}
}

func TestStalledConnectionsCanBeCut(t *testing.T) {
	p := startProxy(t, startEcho(t).Addr().String())
	c := call(t, p)
	c.say("a")
	c.wantAnswer("a") // so that it reaches through to the server
	p.Stall(Both)
	c.say("b")
	c.wantSilence()
	p.Cut()
	c.wantEnd()
}

func TestDropRepliesLosesThoseThatMatch(t *testing.T) {
	server := startEcho(t)
	p := startProxy(t, server.Addr().String())
	p.DropReplies(func(reply []byte) bool { return bytes.Contains(reply, []byte("lose")) })
	one, two := call(t, p), call(t, p)
	one.say("keep")
	one.wantAnswer("keep")
	one.say("lose")
	one.wantEnd()
	two.say("keep")
	two.wantAnswer("keep")
	server.wantLines(t, 3)
	if got := p.Dropped(); got != 1 {
		t.Errorf("%d replies were dropped, want 1", got)
	}
	p.Resume()
	two.say("lose")
	two.wantAnswer("lose")

	p.DropReplies(nil)
	two.say("any")
	two.wantEnd()
	server.wantLines(t, 5)
}

func TestCloseEndsAll(t *testing.T) {
	p := startProxy(t, startEcho(t).Addr().String())
	p.Stall(Replies)
	c := call(t, p)
	c.say("a")
	c.wantSilence()
	p.Close()
	c.wantEnd()
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		conn.Close()
		t.Error("it still takes connections")
	}
}
