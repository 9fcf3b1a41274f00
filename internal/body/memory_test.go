package body

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const mebibyte = 1 << 20

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, test func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		memory.looked = time.Time{}
		test(t)
	})
}

// sender sends so many bytes of a body at once, and then trickles, or sends nothing, until its
// time is over.
type sender struct {
	http.ResponseWriter

	burst    int
	trickles bool
	end      func()
	ended    chan struct{}
}

func newSender(burst int, trickles bool) *sender {
	ended := make(chan struct{})
	return &sender{httptest.NewRecorder(), burst, trickles, sync.OnceFunc(func() { close(ended) }), ended}
}

func (s *sender) SetReadDeadline(at time.Time) error {
	if at.Equal(past) {
		s.end()
	}
	return nil
}

func (s *sender) Read(p []byte) (int, error) {
	if n := min(len(p), s.burst); n > 0 {
		s.burst -= n
		return n, nil
	}
	var next <-chan time.Time
	if s.trickles {
		next = time.After(10 * time.Millisecond)
	}
	select {
	case <-s.ended:
		return 0, os.ErrDeadlineExceeded
	case <-next:
		return 1, nil
	}
}

// send has the body read that the sender announces to have a size.
func (s *sender) send(ctx context.Context, size int64) error {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", s)
	r.ContentLength = size
	_, _, err := Read(s, r, MaxSize, time.Time{})
	return err
}

// receive has whole bodies read, all at once, each of which is used for a while. It returns how
// many are read; the others have no memory.
func receive(t *testing.T, bodies, size int, used time.Duration) int {
	var whole atomic.Int32
	body := make([]byte, size)
	var group sync.WaitGroup
	for range bodies {
		group.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			_, reserved, err := Read(httptest.NewRecorder(), r, MaxSize, time.Time{})
			if err == nil {
				whole.Add(1)
				time.Sleep(used)
				reserved.Release()
			} else if !errors.Is(err, ErrNoMemory) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	return int(whole.Load())
}

func TestWhatIsOnlyAnnouncedHasNoMemory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for range 100 {
			s := newSender(unreserved-1, false)
			go s.send(t.Context(), MaxSize)
			defer s.end()
		}
		synctest.Wait()
		if memory.used != 0 {
			t.Errorf("%d bytes are reserved", memory.used)
		}
	})
}

func TestSlowBodiesGiveWay(t *testing.T) {
	for name, trickle := range map[string]bool{"that stop": false, "that trickle": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const slow, genuine = 60, 8
				results := make(chan error, slow)
				var senders []*sender
				for range slow {
					s := newSender(4*mebibyte-1<<10, trickle)
					senders = append(senders, s)
					go func() { results <- s.send(t.Context(), 4*mebibyte) }()
				}
				time.Sleep(time.Second)
				if got := receive(t, genuine, 4*mebibyte, 0); got != genuine {
					t.Errorf("%d of %d bodies were read", got, genuine)
				}
				for _, s := range senders {
					s.end()
				}
				for range slow {
					if err := <-results; err == nil {
						t.Error("a body that does not end was read")
					}
				}
				if memory.used != 0 || len(memory.coming) != 0 {
					t.Errorf("%d bytes are kept, of %d bodies", memory.used, len(memory.coming))
				}
			})
		})
	}
}

// If each has a part of the memory, and waits for more, none may wait for ever.
func TestBodiesThatNeedAllMemoryDoNotBlockEachOther(t *testing.T) {
	for _, c := range []struct{ bodies, size, least int }{
		{20, 4 * mebibyte, 20},
		{60, 4 * mebibyte, 40},
		{100, 4 * mebibyte, 24},
		{500, 20 << 10, 500},
		{8, MaxSize, 1},
		{1, MaxSize, 1},
	} {
		inBubble(t, func(t *testing.T) {
			if got := receive(t, c.bodies, c.size, 100*time.Millisecond); got < c.least {
				t.Errorf("%d of %d bodies of %d bytes were read, want %d at least", got, c.bodies, c.size, c.least)
			}
			if memory.used != 0 || len(memory.coming) != 0 {
				t.Errorf("%d bytes are kept, of %d bodies", memory.used, len(memory.coming))
			}
		})
	}
}

func TestBodiesInUseGiveWayToNone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var held []*Reservation
		for range capacity / (5 * mebibyte) {
			w := httptest.NewRecorder()
			_, reserved, err := Read(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, 4*mebibyte))), MaxSize, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, reserved)
		}
		time.Sleep(time.Minute)
		began := time.Now()
		if got := receive(t, 1, MaxSize, 0); got != 0 || time.Since(began) < patience {
			t.Errorf("%d bodies were read beside those that need the memory, in %s", got, time.Since(began))
		}
		deadline := time.Now().Add(discardTime + patience/2)
		_, _, err := Read(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(make([]byte, MaxSize))), MaxSize, deadline)
		if left := time.Until(deadline); !errors.Is(err, ErrNoMemory) || left > discardTime || left < discardTime-2*lookAgain {
			t.Errorf("%v, %s before the deadline", err, left)
		}
		for _, one := range held {
			one.Release()
		}
	})
}
