package ipranges

import (
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/certmagic"
)

// publisher is Intercom's server as it is told to be, without a network.
type publisher struct {
	mu     sync.Mutex
	answer func(*http.Request) (status int, body string, err error)
	asked  []time.Time
}

func (p *publisher) answers(status int, body string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = func(*http.Request) (int, string, error) { return status, body, err }
}

func (p *publisher) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked = append(p.asked, time.Now())
	answer := p.answer
	p.mu.Unlock()
	status, body, err := answer(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status,
		Header:     http.Header{"Etag": {`"` + body + `"`}},
		Body:       io.NopCloser(strings.NewReader(body)),
	}, nil
}

// requests returns when there was one since it was last called.
func (p *publisher) requests() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

// pauses returns the times between the requests, as multiples of a unit.
func (p *publisher) pauses(unit time.Duration) []float64 {
	var pauses []float64
	asked := p.requests()
	for n := 1; n < len(asked); n++ {
		pauses = append(pauses, float64(asked[n].Sub(asked[n-1]))/float64(unit))
	}
	return pauses
}

// refreshing makes a refresher of one region. Inside of a synctest bubble, the test
// fails if anything is left running after it.
func refreshing(t *testing.T, refresh time.Duration, sub *subscriber) (*refresher, *publisher) {
	t.Helper()
	r := newRefresher(setting{urls: [3]string{"http://intercom/us"}, refresh: refresh, timeout: 10 * time.Second}, sub)
	server := new(publisher)
	server.answers(200, published("192.0.2.7"), nil)
	r.client.Transport = server
	t.Cleanup(func() { r.Destruct() })
	return r, server
}

// silentSubscriber is a subscriber with storage of its own, whose log nobody reads.
func silentSubscriber(t *testing.T) *subscriber {
	return &subscriber{storage: emptyStorage(t), logger: zap.NewNop()}
}

func loggingSubscriber(t *testing.T) (*subscriber, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return &subscriber{storage: emptyStorage(t), logger: zap.New(core)}, logs
}

func emptyStorage(t *testing.T) certmagic.Storage {
	return &certmagic.FileStorage{Path: t.TempDir()}
}

// within reports whether each number is that of want, give or take a tenth.
func within(got, want []float64) bool {
	return slices.EqualFunc(got, want, func(g, w float64) bool { return g >= 0.9*w && g <= 1.1*w })
}

// running returns the stacks of the goroutines that have some text in them.
func running(text string) string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, text) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10s in vain for: %s", what)
		}
	}
}
