package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// level says how bad a finding is.
type level string

const (
	levelOK         level = "ok"
	levelWarning    level = "warning"
	levelBroken     level = "broken"      // notifications are lost, or anybody can send them
	levelNotChecked level = "not checked" // something stood in the way
)

// finding is what a check of doctor has found.
type finding struct {
	Level level  `json:"level"`
	Check string `json:"check"`
	What  string `json:"what"`
	Why   string `json:"why,omitempty"` // why it matters
	Do    string `json:"do,omitempty"`  // what to do
}

// findings are all that doctor has found.
type findings []finding

func (f *findings) ok(check, format string, args ...any) {
	*f = append(*f, finding{Level: levelOK, Check: check, What: fmt.Sprintf(format, args...)})
}

func (f *findings) warn(check, what, why, do string) {
	*f = append(*f, finding{levelWarning, check, what, why, do})
}

func (f *findings) broken(check, what, why, do string) {
	*f = append(*f, finding{levelBroken, check, what, why, do})
}

func (f *findings) notChecked(check, what, do string) {
	*f = append(*f, finding{Level: levelNotChecked, Check: check, What: what, Do: do})
}

// count returns how many findings are of a level.
func (f findings) count(l level) int {
	n := 0
	for _, finding := range f {
		if finding.Level == l {
			n++
		}
	}
	return n
}

// print prints the findings by level, one a line.
func (f findings) print(w io.Writer, asJSON bool) error {
	for _, l := range []level{levelOK, levelNotChecked, levelWarning, levelBroken} {
		if f.count(l) > 0 && !asJSON {
			fmt.Fprintln(w, l)
		}
		for _, finding := range f {
			if finding.Level != l {
				continue
			}
			if asJSON {
				if err := printJSON(w, finding); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(w, "  %s: %s\n", finding.Check, finding.text())
		}
	}
	return nil
}

func (f finding) text() string {
	parts := []string{f.What}
	for _, part := range []string{f.Why, f.Do} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return escape(strings.Join(parts, "; "))
}

// err returns an error if something is broken.
func (f findings) err() error {
	switch n := f.count(levelBroken); n {
	case 0:
		return nil
	case 1:
		return errors.New("1 thing is broken")
	default:
		return fmt.Errorf("%d things are broken", n)
	}
}
