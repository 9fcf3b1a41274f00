package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// appendToFile is the anchor of the disk: as many callers as there are connections append
// bodies to a file, and those that come while one fsync runs share the next. It returns
// how many are appended in a second.
func appendToFile(dir string, lasting time.Duration) (perSecond float64, err error) {
	path := filepath.Join(dir, "anchor")
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(path)) }()

	coming := make(chan chan struct{})
	ended := make(chan struct{})
	defer close(ended)
	for range connectionCount {
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
	body := []byte(strings.Repeat("x", bodySize))
	began, n := time.Now(), 0
	for time.Since(began) < lasting {
		batch := gather(coming)
		for range batch {
			if _, err := file.Write(body); err != nil {
				return 0, err
			}
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
		for _, answer := range batch {
			answer <- struct{}{}
		}
		n += len(batch)
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// gather takes all that wait.
func gather(coming <-chan chan struct{}) []chan struct{} {
	batch := []chan struct{}{<-coming}
	for {
		select {
		case answer := <-coming:
			batch = append(batch, answer)
		default:
			return batch
		}
	}
}
