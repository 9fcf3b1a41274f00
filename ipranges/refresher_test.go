package ipranges

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

func TestRefreshesAtOnceAndThenFromTimeToTime(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		if got := r.ranges(); !slices.Equal(got, compiledInList("us").Ranges) {
			t.Errorf("serves %v before it is started", got)
		}
		synctest.Wait()
		if len(server.requests()) != 0 {
			t.Error("asks before it is started")
		}

		started := time.Now()
		r.start(sub)
		r.start(sub) // by another config
		synctest.Wait()
		if asked := server.requests(); len(asked) != 1 || !asked[0].Equal(started) {
			t.Errorf("asked at %v, want once and at once", asked)
		}
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v", got)
		}

		time.Sleep(10 * time.Hour)
		pauses := server.pauses(time.Hour)
		if len(pauses) < 8 || !within(pauses, slices.Repeat([]float64{1}, len(pauses))) {
			t.Errorf("hours between requests: %v", pauses)
		}
		if len(slices.Compact(pauses)) < 2 {
			t.Errorf("no jitter: %v", pauses)
		}
	})
}

func TestRefreshOfZeroIsNever(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, 0, sub)
		r.start(sub)
		time.Sleep(1000 * time.Hour)
		if asked := server.requests(); len(asked) != 0 {
			t.Errorf("asked at %v", asked)
		}
		if got := r.ranges(); !slices.Equal(got, compiledInList("us").Ranges) {
			t.Errorf("serves %v", got)
		}
	})
}

func TestRefreshesSoonerAfterAFailure(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		server.answers(0, "", errors.New("unreachable"))
		r.start(sub)
		time.Sleep(6 * time.Hour)
		want := []float64{10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600}
		if pauses := server.pauses(time.Second); !within(pauses[:len(want)], want) {
			t.Errorf("seconds between requests: %v, want about %v", pauses, want)
		}
		if got := r.ranges(); !slices.Equal(got, compiledInList("us").Ranges) {
			t.Errorf("serves %v", got)
		}

		server.answers(200, published("192.0.2.7"), nil)
		time.Sleep(2 * time.Hour)
		if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
			t.Errorf("serves %v", got)
		}
		server.requests()
		time.Sleep(4 * time.Hour)
		if pauses := server.pauses(time.Hour); len(pauses) < 2 || !within(pauses, slices.Repeat([]float64{1}, len(pauses))) {
			t.Errorf("hours between requests after a good one: %v", pauses)
		}

		server.requests()
		server.answers(500, "", nil)
		time.Sleep(75 * time.Minute)
		if pauses := server.pauses(time.Second); len(pauses) < 2 || !within(pauses[:2], []float64{10, 20}) {
			t.Errorf("seconds between requests after another failure: %v", pauses)
		}
	})
}

// A server that cannot tell whether the list has changed must not keep it forever.
func TestAsksForTheWholeListAfterAFailure(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		r.start(sub)
		synctest.Wait()
		server.mu.Lock()
		server.answer = func(r *http.Request) (int, string, error) {
			if r.Header.Get("If-None-Match") != "" {
				return 412, "", nil
			}
			return 200, published("198.51.100.7"), nil
		}
		server.mu.Unlock()
		time.Sleep(2 * time.Hour)
		if got := r.ranges(); !slices.Equal(got, prefixes("198.51.100.7/32")) {
			t.Errorf("serves %v", got)
		}
	})
}

// Each list that is not to be relied on leaves the last good one.
func TestListIsNeverWorseThanBefore(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		r.start(sub)
		synctest.Wait()
		for _, bad := range []string{"", "<html>", published(), published("0.0.0.0/0"), published("192.0.2.8", "nonsense"), published("10.0.0.1")} {
			server.answers(200, bad, nil)
			time.Sleep(2 * time.Hour)
			if got := r.ranges(); !slices.Equal(got, prefixes("192.0.2.7/32")) {
				t.Errorf("serves %v after %q", got, bad)
			}
			if stored, err := r.regions[0].stored(t.Context(), sub.storage); err != nil || !slices.Equal(stored.Ranges, prefixes("192.0.2.7/32")) {
				t.Errorf("stored %v, %v after %q", stored, err, bad)
			}
		}
	})
}

// A trouble that lasts is told once, another one, or the same once more, again.
func TestTroubleIsToldOnce(t *testing.T) {
	sub, log := loggingSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		n := 0
		server.answer = func(*http.Request) (int, string, error) {
			n++
			return 0, "", fmt.Errorf("read tcp 10.0.0.7:%d->192.0.2.1:443: connection reset by peer", 40000+n)
		}
		r.start(sub)
		for _, next := range []struct {
			status int
			body   string
			warned string
		}{
			{0, "", "no answer: read tcp 10.0.0.7:40001->192.0.2.1:443: connection reset by peer"},
			{500, "", "answer refused: status 500"},
			{503, "", "answer refused: status 503"},
			{200, published("0.0.0.0/0"), "answer refused: 0.0.0.0/0 is wider than /16"},
			{200, published("192.0.2.7"), ""},
			{200, published("0.0.0.0/0"), "answer refused: 0.0.0.0/0 is wider than /16"},
		} {
			if next.status != 0 {
				server.answers(next.status, next.body, nil)
			}
			time.Sleep(10 * time.Hour)
			synctest.Wait()
			var warned []string
			fresh := 0
			for _, entry := range log.TakeAll() {
				if entry.Level == zap.WarnLevel {
					warned = append(warned, entry.ContextMap()["error"].(string))
				} else if entry.Message == "Intercom's addresses are fresh again" {
					fresh++
				}
			}
			if next.warned != "" && !slices.Equal(warned, []string{next.warned}) || next.warned == "" && (len(warned) != 0 || fresh != 1) {
				t.Errorf("status %d, %s: warned %q, and told %d times that all is well", next.status, next.body, warned, fresh)
			}
		}
	})
}

func TestDestructWaits(t *testing.T) {
	sub := silentSubscriber(t)
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		ended := false
		server.answer = func(r *http.Request) (int, string, error) {
			<-r.Context().Done()
			time.Sleep(time.Second)
			ended = true
			return 0, "", r.Context().Err()
		}
		r.start(sub)
		synctest.Wait()
		r.Destruct()
		if !ended {
			t.Error("a request is still under way")
		}
	})
}

func TestRefreshesAreCounted(t *testing.T) {
	sub := silentSubscriber(t)
	count := func(result string) float64 {
		return testutil.ToFloat64(refreshTotal.WithLabelValues("us", result))
	}
	before := map[string]float64{}
	for _, result := range []string{refreshUpdated, refreshUnchanged, refreshRefused, refreshFailed} {
		before[result] = count(result)
	}
	answers := []struct {
		status int
		body   string
		err    error
	}{
		{200, published("192.0.2.7"), nil},
		{200, published("192.0.2.7"), nil},
		{304, "", nil},
		{500, "", nil},
		{200, "<html>", nil},
		{0, "", errors.New("unreachable")},
	}
	synctest.Test(t, func(t *testing.T) {
		r, server := refreshing(t, time.Hour, sub)
		next := 0
		server.answer = func(r *http.Request) (int, string, error) {
			if next == len(answers) {
				<-r.Context().Done() // the end of the refresher, which is no failure
				return 0, "", r.Context().Err()
			}
			next++
			return answers[next-1].status, answers[next-1].body, answers[next-1].err
		}
		r.regions[0].timeout = 1000 * time.Hour
		r.start(sub)
		time.Sleep(10 * time.Hour)
	})
	for result, want := range map[string]float64{refreshUpdated: 1, refreshUnchanged: 2, refreshRefused: 2, refreshFailed: 1} {
		if got := count(result) - before[result]; got != want {
			t.Errorf("%s was counted %v times, want %v", result, got, want)
		}
	}
}

// Real connections, and requests that read meanwhile: for the race detector, and for
// what is left when the last subscriber is gone.
func TestSharedRefresher(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		n := asked[r.URL.Path]
		mu.Unlock()
		if n%3 == 0 {
			<-r.Context().Done() // longer than it is waited for
			return
		}
		io.WriteString(w, published("192.0.2."+string(rune('0'+n%10))))
	}))
	defer server.Close()
	sub := silentSubscriber(t)
	set := setting{refresh: time.Millisecond, timeout: 200 * time.Millisecond}
	for i, region := range regions {
		set.urls[i] = server.URL + "/" + region
	}

	var users []*refresher
	for range 3 {
		r, err := acquireRefresher(set, sub)
		if err != nil {
			t.Fatal(err)
		}
		r.start(sub)
		users = append(users, r)
	}
	if users[0] != users[1] || users[0] != users[2] {
		t.Error("the same setting has several refreshers")
	}
	other := set
	other.refresh = 0
	unlike, err := acquireRefresher(other, sub)
	if err != nil {
		t.Fatal(err)
	}
	if unlike == users[0] {
		t.Error("another setting has the same refresher")
	}

	var readers sync.WaitGroup
	stop := make(chan struct{})
	stopReaders := sync.OnceFunc(func() {
		close(stop)
		readers.Wait()
	})
	defer stopReaders()
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if got := users[0].ranges(); len(got) < 3 {
						t.Errorf("serves %v", got)
					}
					runtime.Gosched() // there may be one CPU
				}
			}
		})
	}
	eventuallyAsked := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d requests for each list", n), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return asked["/us"] >= n && asked["/eu"] >= n && asked["/au"] >= n
		})
	}
	eventuallyAsked(7)
	users[0].release(sub)
	users[1].release(sub)
	mu.Lock()
	soFar := asked["/us"]
	mu.Unlock()
	eventuallyAsked(soFar + 2) // for the one who is left
	stopReaders()

	users[2].release(sub)
	unlike.release(sub)
	if left := running("ipranges.(*refresher)"); left != "" {
		t.Errorf("left running:\n%s", left)
	}
	eventually(t, "all connections are closed", func() bool { return running("net/http.(*persistConn)") == "" })
	if _, ok := refreshers.References(set); ok {
		t.Error("the pool still has it")
	}
}

func TestGettingRangesAllocatesNothing(t *testing.T) {
	source := &Source{refresher: newRefresher(setting{urls: [3]string{"http://intercom/us", "", "http://intercom/au"}}, silentSubscriber(t))}
	var got []netip.Prefix
	if n := testing.AllocsPerRun(100, func() { got = source.GetIPRanges(nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if want := slices.Concat(compiledInList("us").Ranges, compiledInList("au").Ranges); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
