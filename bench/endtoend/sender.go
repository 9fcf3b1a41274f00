package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/load"
)

const senderRole = "sender"

// sending is what a sender is to do.
type sending struct {
	Address, Path string
	Plan          load.Plan
	Others        int // how many other workspaces to send from, in turn; 0: from the usual one
}

// sent is what came of it.
type sent struct {
	Began    time.Time
	Took     time.Duration
	OK       int
	Others   map[string]int // what else came of requests, and how often
	P50, P99 time.Duration  // of those that were answered
}

// perSecond returns how many were answered with 200 in a second.
func (s sent) perSecond() float64 { return float64(s.OK) / s.Took.Seconds() }

// err says that not all was answered with 200.
func (s sent) err() error {
	if len(s.Others) > 0 {
		return fmt.Errorf("%d answered with 200, and others: %v", s.OK, s.Others)
	}
	return nil
}

// send runs a sender until it is done.
func send(ctx context.Context, order sending) (s sent, err error) {
	c, err := startChild(ctx, senderRole, order)
	if err != nil {
		return s, err
	}
	defer c.end()
	return s, c.answer(&s)
}

// runSender sends as it is ordered to, and replies what came of it.
func runSender() error {
	var o sending
	ctx, err := order(&o)
	if err != nil {
		return err
	}
	s := sent{Began: time.Now(), Others: make(map[string]int)}
	took := load.NewDurations()
	for a := range load.Start(ctx, o.Plan, (&connections{order: o}).send) {
		switch {
		case a.err != nil:
			s.Others["no answer"]++
		case a.status != http.StatusOK:
			s.Others[fmt.Sprint(a.status)]++
		default:
			s.OK++
			took.Add(a.took)
		}
	}
	s.Took = time.Since(s.Began)
	s.P50, s.P99 = took.Percentile(50), took.Percentile(99)
	return reply(s)
}

type answer struct {
	status int
	took   time.Duration
	err    error
}

// connections sends on the connection that was used last of those that are free, so that
// there are no more than are needed. It writes and reads HTTP itself: net/http's client
// takes a good part of what the gateway takes, on the same processors.
type connections struct {
	order sending
	ids   atomic.Int64
	mu    sync.Mutex
	free  []*connection
}

type connection struct {
	net.Conn
	reader *bufio.Reader
	buffer []byte
}

// pauseAfterFailure keeps a closed loop from spinning while the gateway is down.
const pauseAfterFailure = 10 * time.Millisecond

func (cs *connections) send(_ context.Context, arrived time.Time) (a answer) {
	c, err := cs.take()
	if err == nil {
		n, workspace := cs.ids.Add(1), usualWorkspace
		if others := int64(cs.order.Others); others > 0 {
			workspace = otherWorkspace(n % others)
		}
		if a.status, err = c.post(cs.order.Path, workspace, newID(arrived, n)); err == nil {
			cs.put(c)
		} else {
			c.Close()
		}
	}
	if a.err = err; err != nil {
		time.Sleep(pauseAfterFailure)
	}
	a.took = time.Since(arrived)
	return a
}

func (cs *connections) take() (*connection, error) {
	cs.mu.Lock()
	if last := len(cs.free) - 1; last >= 0 {
		c := cs.free[last]
		cs.free = cs.free[:last]
		cs.mu.Unlock()
		return c, nil
	}
	cs.mu.Unlock()
	conn, err := net.Dial("tcp", cs.order.Address)
	if err != nil {
		return nil, err
	}
	return &connection{Conn: conn, reader: bufio.NewReader(conn)}, nil
}

func (cs *connections) put(c *connection) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.free = append(cs.free, c)
}

func (c *connection) post(path, workspace, id string) (status int, err error) {
	c.buffer = appendRequest(c.buffer[:0], path, workspace, id)
	if _, err := c.Write(c.buffer); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}
