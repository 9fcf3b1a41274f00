package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

const senderRole = "sender"

// sending is what a sender is to do.
type sending struct {
	Address, Path string
	Connections   int           // at most so many requests at once
	Rate          int           // arrivals a second; 0: each connection sends when its last request is answered
	Duration      time.Duration // 0: until the count is reached, or the sender is ended
	Count         uint64        // 0: no limit
	Others        uint64        // how many other workspaces to send from, in turn; 0: from the usual one
}

// due returns when the n-th notification is due, if they come at a rate.
func (o sending) due(began time.Time, n uint64) time.Time {
	if o.Rate == 0 {
		return time.Now()
	}
	return began.Add(time.Duration(n) * time.Second / time.Duration(o.Rate))
}

// sent is what came of it.
type sent struct {
	Began    time.Time
	Took     time.Duration
	OK       int
	Others   map[string]int // what else came of requests, and how often
	P50, P99 time.Duration  // from when they were due to the answer, of those answered with 200
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

// send runs a sender until it is done. Whatever was not answered with 200 is an error.
func send(ctx context.Context, order sending) (s sent, err error) {
	c, err := startChild(ctx, senderRole, order)
	if err != nil {
		return s, err
	}
	defer c.end()
	err = c.answer(&s)
	return s, errors.Join(err, s.err())
}

// runSender sends as it is ordered to, and replies what came of it.
func runSender() error {
	var o sending
	ctx, err := order(&o)
	if err != nil {
		return err
	}
	return reply(attack(ctx, o))
}

func attack(ctx context.Context, o sending) sent {
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: &connections{address: o.Address}}),
		vegeta.Workers(min(uint64(o.Connections), 64)), vegeta.MaxWorkers(uint64(o.Connections)))
	defer context.AfterFunc(ctx, func() { attacker.Stop() })()

	s := sent{Began: time.Now(), Others: make(map[string]int)}
	var targets atomic.Uint64
	next := func(t *vegeta.Target) error {
		n, workspace := targets.Add(1)-1, usualWorkspace
		if o.Others > 0 {
			workspace = otherWorkspace(n % o.Others)
		}
		*t = newTarget("http://"+o.Address+o.Path, workspace, n, newID(o.due(s.Began, n), n))
		return nil
	}
	var took vegeta.LatencyMetrics
	for r := range attacker.Attack(next, pacer{vegeta.ConstantPacer{Freq: o.Rate, Per: time.Second}, o.Count}, o.Duration, "") {
		switch {
		case r.Code == 0:
			s.Others[r.Error]++
		case r.Code != http.StatusOK:
			s.Others[fmt.Sprint(r.Code)]++
		default:
			s.OK++
			// A request that had to wait for a free connection was due before vegeta's timestamp.
			if due := o.due(s.Began, r.Seq); o.Rate > 0 && due.Before(r.Timestamp) {
				took.Add(r.End().Sub(due))
			} else {
				took.Add(r.Latency)
			}
		}
	}
	s.Took = time.Since(s.Began)
	s.P50, s.P99 = took.Quantile(0.50), took.Quantile(0.99)
	return s
}

// pacer paces at a rate, or as fast as the connections allow, until count are sent.
type pacer struct {
	vegeta.ConstantPacer
	count uint64 // 0: no limit
}

func (p pacer) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	if p.count > 0 && hits >= p.count {
		return 0, true
	}
	return p.ConstantPacer.Pace(elapsed, hits)
}

// connections is an http.RoundTripper that sends on the connection that was used last of
// those that are free, so that there are no more than are needed. It is no http.Transport,
// which would take a good part of what the gateway takes, on the same processors.
type connections struct {
	address string
	mu      sync.Mutex
	free    []*connection
}

type connection struct {
	net.Conn
	reader *bufio.Reader
	writer *bufio.Writer
}

const (
	requestTimeout = 30 * time.Second
	// pauseAfterFailure keeps a closed loop from spinning while the gateway is down.
	pauseAfterFailure = 10 * time.Millisecond
)

func (cs *connections) RoundTrip(r *http.Request) (*http.Response, error) {
	c, err := cs.acquire()
	if err != nil {
		time.Sleep(pauseAfterFailure)
		return nil, err
	}
	response, err := c.do(r)
	if err != nil {
		c.Close()
		time.Sleep(pauseAfterFailure)
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.free = append(cs.free, c)
	return response, nil
}

func (cs *connections) acquire() (*connection, error) {
	cs.mu.Lock()
	if last := len(cs.free) - 1; last >= 0 {
		c := cs.free[last]
		cs.free = cs.free[:last]
		cs.mu.Unlock()
		return c, nil
	}
	cs.mu.Unlock()
	conn, err := net.DialTimeout("tcp", cs.address, requestTimeout)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn), bufio.NewWriterSize(conn, 2*bodySize)}, nil
}

// do sends a request and reads the whole answer, so that the connection is free again.
func (c *connection) do(r *http.Request) (*http.Response, error) {
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	if err := errors.Join(r.Write(c.writer), c.writer.Flush()); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.reader, r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, err
}
