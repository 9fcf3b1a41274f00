//go:build postgres

package dbtest_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"sync"
	"testing"
)

// proxy stands between the instances and the server, and makes the network between them fail.
type proxy struct {
	net.Listener
	target  string
	running sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond // stalled, or the connections
	stalled bool       // nothing passes
	loses   bool       // a reply that tells of a commit is lost, with its connection
	lost    bool
	conns   map[net.Conn]bool // both sides of each connection
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: listener, target: target, conns: make(map[net.Conn]bool)}
	p.changed = sync.NewCond(&p.mu)
	p.running.Go(func() {
		for client, err := p.Accept(); err == nil; client, err = p.Accept() {
			p.running.Go(func() { p.forward(client) })
		}
	})
	return p
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.set(func() { p.conns[client], p.conns[server] = true, true })
	var reply []byte // since the last request
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, func([]byte) bool { reply = reply[:0]; return false }) })
	both.Go(func() {
		p.pass(client, server, func(data []byte) bool {
			reply = append(reply, data...)
			return p.loses && committed(reply)
		})
	})
	both.Wait()
	p.set(func() { delete(p.conns, client); delete(p.conns, server) })
}

// pass passes bytes on until one side ends, or until they are lost. lose is called with the lock.
func (p *proxy) pass(to, from net.Conn, lose func(data []byte) bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		for p.stalled && p.conns[from] {
			p.changed.Wait()
		}
		lost := n > 0 && lose(buffer[:n])
		p.lost = p.lost || lost
		p.mu.Unlock()
		if lost || err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	p.changed.Broadcast()
}

func (p *proxy) stall()       { p.set(func() { p.stalled = true }) }
func (p *proxy) loseCommits() { p.set(func() { p.loses, p.lost = true, false }) }
func (p *proxy) resume()      { p.set(func() { p.stalled, p.loses = false, false }) }

func (p *proxy) hasLost() (lost bool) {
	p.set(func() { lost = p.lost })
	return lost
}

// cut ends all connections. New ones are forwarded as before.
func (p *proxy) cut() {
	p.set(func() {
		for conn := range p.conns {
			conn.Close()
			delete(p.conns, conn)
		}
	})
}

func (p *proxy) close() {
	p.Close()
	p.cut()
	p.running.Wait()
}

// committed reports whether a reply tells of the end of a statement and its transaction.
// Replies that only describe a statement tell of neither.
func committed(reply []byte) bool {
	completed := false
	for len(reply) >= 5 {
		size := 1 + int(binary.BigEndian.Uint32(reply[1:]))
		if len(reply) < size {
			return false
		}
		switch body := reply[5:size]; reply[0] {
		case 'C': // CommandComplete
			completed = !bytes.HasPrefix(body, []byte("BEGIN"))
		case 'Z': // ReadyForQuery
			if completed && body[0] == 'I' {
				return true
			}
		}
		reply = reply[size:]
	}
	return false
}
