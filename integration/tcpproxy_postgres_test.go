//go:build postgres

package integration

import (
	"errors"
	"net"
	"sync"
)

// direction is one of the two ways that bytes go through a tcpProxy, or both.
type direction int

// The directions, as seen by the client.
const (
	requests direction = 1 << iota
	replies
	bothWays = requests | replies
)

// tcpProxy forwards connections to one address, and makes the network between fail. Its
// methods may be called at any time.
type tcpProxy struct {
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	target  string
	changed *sync.Cond // stalled, or a link's cut
	stalled direction
	drops   func(reply []byte) bool // nil: nothing is dropped
	dropped int
	closed  bool
	links   map[*link]struct{}
}

// link is a connection of a client, and its own one to the server.
type link struct {
	client, server *net.TCPConn
	reply          []byte // all that the server has sent since the last request
	cut            bool
}

// startTCPProxy forwards what comes to a port of the loopback interface to the target's address.
func startTCPProxy(target string) (*tcpProxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &tcpProxy{listener: listener, target: target, links: make(map[*link]struct{})}
	p.changed = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	return p, nil
}

// Addr returns the address that clients connect to.
func (p *tcpProxy) Addr() string { return p.listener.Addr().String() }

// Retarget has new connections forwarded to another address. Those that are open stay.
func (p *tcpProxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Cut resets all connections. New ones are forwarded as before.
func (p *tcpProxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAll()
}

// Stall stops passing bytes on in a direction, for new connections as well. What comes
// meanwhile is passed on after Resume.
func (p *tcpProxy) Stall(way direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled |= way
}

// DropReplies makes replies get lost: requests are passed on, but a reply that matches is
// swallowed, and its connection is reset. The function gets all bytes that the server has
// sent since the client's last request, and is called each time that more have come. Nil
// matches every reply.
func (p *tcpProxy) DropReplies(matches func(reply []byte) bool) {
	if matches == nil {
		matches = func([]byte) bool { return true }
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drops, p.dropped = matches, 0
}

// Dropped returns how many replies were lost since the last call of DropReplies.
func (p *tcpProxy) Dropped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// Resume ends Stall and DropReplies.
func (p *tcpProxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled, p.drops = 0, nil
	p.changed.Broadcast()
}

// Close resets all connections, and refuses new ones. It may be called twice.
func (p *tcpProxy) Close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.cutAll()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *tcpProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.running.Go(func() { p.forward(client.(*net.TCPConn)) })
		}
	}
}

// forward serves a connection until it ends.
func (p *tcpProxy) forward(client *net.TCPConn) {
	defer client.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	dialed, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	l := &link{client: client, server: dialed.(*net.TCPConn)}
	defer l.server.Close()
	if !p.add(l) {
		return
	}
	defer p.remove(l)

	var sending sync.WaitGroup
	sending.Go(func() { p.pass(l, requests, l.server, l.client) })
	p.pass(l, replies, l.client, l.server)
	sending.Wait()
}

// pass passes bytes on in one direction, and ends both when one of them ends.
func (p *tcpProxy) pass(l *link, way direction, to, from *net.TCPConn) {
	defer func() {
		p.mu.Lock()
		l.cut = true
		p.changed.Broadcast()
		p.mu.Unlock()
		to.Close()
		from.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.mayPass(l, way, buffer[:n]) {
			return
		}
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// mayPass waits while the direction is stalled. It reports whether the bytes are to be
// passed on; if not, the connection is cut.
func (p *tcpProxy) mayPass(l *link, way direction, data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stalled&way != 0 && !l.cut {
		p.changed.Wait()
	}
	switch {
	case l.cut:
		return false
	case way == requests:
		l.reply = l.reply[:0]
		return true
	case p.drops == nil:
		return true
	}
	l.reply = append(l.reply, data...)
	if p.drops(l.reply) {
		p.dropped++
		p.cutLink(l)
		return false
	}
	return true
}

func (p *tcpProxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.links[l] = struct{}{}
	}
	return !p.closed
}

func (p *tcpProxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

func (p *tcpProxy) cutAll() {
	for l := range p.links {
		p.cutLink(l)
	}
	p.changed.Broadcast()
}

// cutLink needs the lock.
func (p *tcpProxy) cutLink(l *link) {
	l.cut = true
	for _, conn := range []*net.TCPConn{l.client, l.server} {
		conn.SetLinger(0)
		conn.Close()
	}
}
