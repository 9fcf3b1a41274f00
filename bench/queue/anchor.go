package main

import (
	"errors"
	"os"
	"time"
)

// appendDuration is how long appending is measured each time.
const appendDuration = 2 * time.Second

// appendToFile is the anchor: as many callers append the same bytes to a file, and
// those that come while one fsync runs share the next.
func appendToFile(path string) (appended pace, err error) {
	file, err := os.Create(path)
	if err != nil {
		return appended, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(path)) }()

	coming := make(chan chan struct{})
	ended := make(chan struct{})
	defer close(ended)
	for range callers {
		go func() {
			for answer := make(chan struct{}, 1); ; <-answer {
				select {
				case coming <- answer:
				case <-ended:
					return
				}
			}
		}()
	}
	body := notification()
	w, n := startWatch(), int64(0)
	for time.Since(w.began) < appendDuration {
		group := gather(coming)
		for range group {
			if _, err := file.Write(body); err != nil {
				return appended, err
			}
		}
		if err := file.Sync(); err != nil {
			return appended, err
		}
		for _, answer := range group {
			answer <- struct{}{}
		}
		n += int64(len(group))
	}
	return w.pace(n, nil), nil
}

// gather takes all that waits.
func gather(coming <-chan chan struct{}) []chan struct{} {
	group := []chan struct{}{<-coming}
	for {
		select {
		case answer := <-coming:
			group = append(group, answer)
		default:
			return group
		}
	}
}
