package integration

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// With QUIC's 0-RTT a request comes with the first packet. A sender that has a session
// ticket needs none of the server's packets for it, so it can write any address into
// its own.
func TestRequestInEarlyDataIsRefused(t *testing.T) {
	b := newBackend(t, nil)
	g := newGateway(t)
	certificate, trusted := newCertificate(t)
	if err := g.load(setup{
		address: "https://localhost:" + g.port, behind: certificate,
		options: "auto_https disable_redirects", servers: "protocols h1 h2 h3",
		webhook: "route * to " + b.address,
	}); err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		ServerName: "localhost", RootCAs: trusted, NextProtos: []string{http3.NextProtoH3},
		ClientSessionCache: newTicketCache(),
	}

	ordinary := &http3.Transport{TLSClientConfig: config}
	t.Cleanup(func() { ordinary.Close() })
	before := g.scrape()
	if status, err := postHTTP3(ordinary, g.port); err != nil || status != http.StatusOK {
		t.Fatalf("an ordinary request by HTTP/3 was answered %d, %v; want 200", status, err)
	}
	select {
	case <-config.ClientSessionCache.(*ticketCache).filled:
	case <-time.After(patience):
		t.Fatal("the gateway gave no session ticket")
	}
	b.wantCount(t, 1)

	socket := newDeafSocket(t)
	server, err := net.ResolveUDPAddr("udp", "127.0.0.1:"+g.port)
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: socket}
	t.Cleanup(func() { transport.Close() })
	conn, err := transport.DialEarly(t.Context(), server, config, nil)
	if err != nil {
		t.Fatalf("the client has no ticket for 0-RTT: %v", err)
	}
	sendHTTP3(t, conn, "/early", good)

	access := g.access("/early")
	if access["status"] != 425.0 || access.tag().text("reason") != "early_data" {
		t.Errorf("answered %v because of %q, want 425 because of early_data", access["status"], access.tag().text("reason"))
	}
	b.wantCount(t, 1)
	grown := g.scrape().since(before)
	want := fmt.Sprint(series{`refused_total{reason="early_data"}`: 1})
	if got := fmt.Sprint(grown.of("refused_total")); got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	if got := g.scrape()["consecutive_errors"]; got != 0 {
		t.Errorf("it counts as %v error answers to Intercom", got)
	}
}

// postHTTP3 sends a good notification.
func postHTTP3(transport *http3.Transport, port string) (status int, err error) {
	r, err := http.NewRequest(http.MethodPost, "https://127.0.0.1:"+port+"/", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Host = "localhost"
	r.Header = good.header.Clone()
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return response.StatusCode, nil
}

// sendHTTP3 sends a request at once. http3's own client would wait for the handshake
// before a POST.
func sendHTTP3(t *testing.T, conn *quic.Conn, path string, m message) {
	t.Helper()
	const frameData, frameHeaders = 0, 1
	var header bytes.Buffer
	encoder := qpack.NewEncoder(&header)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path},
		{"content-length", fmt.Sprint(len(m.body))}, {"x-hub-signature", m.header.Get(hubHeader)},
	} {
		if err := encoder.WriteField(qpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	frame := func(kind uint64, content []byte) []byte {
		return append(quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(content))), content...)
	}
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Write(append(frame(frameHeaders, header.Bytes()), frame(frameData, m.body)...)); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
}

// deafSocket sends, but hears nothing: to a sender with a false address no answer comes.
type deafSocket struct {
	net.PacketConn
	closed chan struct{}
	once   sync.Once
}

func newDeafSocket(t *testing.T) *deafSocket {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deaf := &deafSocket{PacketConn: socket, closed: make(chan struct{})}
	t.Cleanup(func() { deaf.Close() })
	return deaf
}

func (s *deafSocket) ReadFrom([]byte) (int, net.Addr, error) {
	<-s.closed
	return 0, nil, net.ErrClosed
}

// SetReadDeadline ends the read, as quic-go expects when it closes its transport.
func (s *deafSocket) SetReadDeadline(time.Time) error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *deafSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.PacketConn.Close()
}

// ticketCache tells when it has a session ticket.
type ticketCache struct {
	tls.ClientSessionCache
	filled chan struct{}
	once   sync.Once
}

func newTicketCache() *ticketCache {
	return &ticketCache{ClientSessionCache: tls.NewLRUClientSessionCache(1), filled: make(chan struct{})}
}

func (c *ticketCache) Put(key string, session *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, session)
	if session != nil {
		c.once.Do(func() { close(c.filled) })
	}
}
