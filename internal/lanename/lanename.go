// Package lanename has the names of lanes.
package lanename

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

var validName = regexp.MustCompile(`^[a-z0-9]+([_-][a-z0-9]+)*$`)

const maxLength = 64

// Check returns an error if a name is not one that a lane can have.
func Check(name string) error {
	if len(name) > maxLength || !validName.MatchString(name) {
		return fmt.Errorf("lane %q: the name must be lower-case letters and digits, joined by single - or _, at most %d characters", name, maxLength)
	}
	return nil
}

// fallback is the lane of a route that has neither a lane nor a topic pattern.
const fallback = "route"

var repeatedSeparators = regexp.MustCompile(`[_-]{2,}`)

// CopyPrefix begins the default names of the lanes of copies.
const CopyPrefix = "copy-"

// Default makes a valid name from a prefix, which is empty or ends with a -, and the first
// of the valid topic patterns.
func Default(prefix string, patterns []string) string {
	if len(patterns) == 0 {
		return prefix + fallback
	}
	if patterns[0] == "*" {
		return prefix + "default"
	}
	name := strings.ToLower(strings.TrimSuffix(patterns[0], ".*"))
	name = strings.NewReplacer(".", "-", "*", "any").Replace(name)
	name = strings.Trim(repeatedSeparators.ReplaceAllString(name, "-"), "_-")
	return cut(prefix+cmp.Or(name, fallback), maxLength)
}

// Numbered makes a valid name from one and a number, which is at its end.
func Numbered(name string, n int) string {
	suffix := fmt.Sprint("-", n)
	return cut(name, maxLength-len(suffix)) + suffix
}

func cut(name string, most int) string {
	return strings.TrimRight(name[:min(len(name), most)], "_-")
}
