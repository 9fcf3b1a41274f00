package worker

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// Each outcome that came while the database failed made it be written again, up to 100 times a second.
func TestOutcomesAreNotWrittenMoreOftenWhileThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		handler, database := &fakeHandler{lane: "support"}, newFakeDB()
		var tried atomic.Int64
		var back atomic.Bool
		database.finish = func() error {
			tried.Add(1)
			if back.Load() {
				return nil
			}
			return errors.New("connection refused")
		}
		w := openWorker(t, database, handler.endpoint("intercom", testOptions, "support"))
		defer w.close()
		for i := range 100 {
			w.put("support", fmt.Sprint(i))
			time.Sleep(10 * time.Millisecond)
		}
		if n := tried.Load(); n < 2 || n > 6 {
			t.Errorf("tried %d times in a second, want once each %s", n, finishRetry)
		}
		back.Store(true)
		w.eventually("support delivered", 100)
	})
}
