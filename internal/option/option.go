// Package option reads and checks options of the config, and writes the error messages
// about them. Caddyfile parsers and Provision methods share it.
package option

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Year is the longest that most durations may be.
const Year = 365 * 24 * time.Hour

// CheckDuration returns an error if d is shorter than 1ms or longer than most. A number
// of seconds in JSON is such an error, because Caddy reads a number as nanoseconds.
func CheckDuration(name string, d, most time.Duration) error {
	if d < time.Millisecond || d > most {
		return fmt.Errorf(`%s must be from 1ms to %s, as in "10s", and not %s`, name, inWords(most), d)
	}
	return nil
}

// inWords writes whole years as such, because time.Duration has no unit above the hour.
func inWords(d time.Duration) string {
	switch years := d / Year; {
	case years == 0 || d%Year != 0:
		return d.String()
	case years == 1:
		return "1 year"
	default:
		return fmt.Sprintf("%d years", years)
	}
}

// ParseDuration reads the duration that follows the name of an option, which is the
// current token. The error has the file and the line.
func ParseDuration(d *caddyfile.Dispenser, check func(name string, d time.Duration) error) (caddy.Duration, error) {
	name := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return 0, d.ArgErr()
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, d.Errf("%s %q is not a duration such as 4.5s or 3d", name, text)
	}
	if err := check(name, duration); err != nil {
		return 0, d.WrapErr(err)
	}
	return caddy.Duration(duration), nil
}

// ParseStatus reads an HTTP status, as in 503, or a class of them, as in 5xx, which becomes 5.
func ParseStatus(text string) (int, error) {
	class, isClass := strings.CutSuffix(text, "xx")
	status, err := strconv.Atoi(class)
	if err != nil || isClass && (status < 1 || status > 5) || !isClass && (status < 100 || status > 599) {
		return 0, fmt.Errorf("%q is no status: give one such as 410, or 4xx for all that begin with 4", text)
	}
	return status, nil
}

// UpTo returns a check for ParseDuration: CheckDuration with this maximum.
func UpTo(most time.Duration) func(name string, d time.Duration) error {
	return func(name string, d time.Duration) error { return CheckDuration(name, d, most) }
}

// Choices lists the valid names for an error message about the name that was given. If
// one of them has a similar spelling, Choices suggests it.
func Choices(name string, valid []string) string {
	nearest, distance := Nearest(name, valid)
	if 2*distance > max(len(name), len(nearest)) {
		return Enumerate(valid)
	}
	return fmt.Sprintf("%s; did you mean %s?", Enumerate(valid), nearest)
}

// Nearest returns the valid name with the nearest spelling, and in how many letters it differs.
func Nearest(name string, valid []string) (nearest string, distance int) {
	nearest = slices.MinFunc(valid, func(a, b string) int {
		return cmp.Or(levenshtein.ComputeDistance(name, a)-levenshtein.ComputeDistance(name, b), strings.Compare(a, b))
	})
	return nearest, levenshtein.ComputeDistance(name, nearest)
}

// Enumerate joins names as in "a, b and c".
func Enumerate(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}
