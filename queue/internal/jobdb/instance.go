package jobdb

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// maxInstanceLength bounds the name of an instance, in bytes.
const maxInstanceLength = 100

// newInstance returns a name for this process: the host's name and a random number.
func newInstance() string {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return instanceName(host, rand.Uint64()) //nolint:gosec // a name, not a secret
}

// instanceName has only letters, digits, dots and hyphens: what splits a claim's holder
// into instance and token must not be in it.
func instanceName(host string, number uint64) string {
	host = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		default:
			return '-'
		}
	}, host)
	if host == "" {
		host = "unknown"
	}
	suffix := "-" + strconv.FormatUint(number, 36)
	return host[:min(len(host), maxInstanceLength-len(suffix))] + suffix
}

// holder is what stands in attempted_by for a claim.
func holder(instance string, token Token) string {
	return fmt.Sprintf("%s#%d", instance, token)
}

// heldBy returns the instance and the token of a holder. The version before wrote no
// tokens: these are 0.
func heldBy(holder string) (instance string, token Token) {
	instance, number, _ := strings.Cut(holder, "#")
	parsed, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return instance, 0
	}
	return instance, Token(parsed)
}
