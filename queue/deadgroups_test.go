package queue

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

func TestGroupReason(t *testing.T) {
	for name, c := range map[string]struct{ stored, want string }{
		"an error":                            {`{"error":"127.0.0.1:9: backend answered 502"}`, "127.0.0.1:9: backend answered 502"},
		"with the port of this end":           {`{"error":"read tcp 127.0.0.1:54321->127.0.0.1:9000: read: connection reset by peer"}`, "read tcp 127.0.0.1:9000: read: connection reset by peer"},
		"with the port of this end, and IPv6": {`{"error":"read tcp [::1]:54321->[::1]:9000: EOF"}`, "read tcp [::1]:9000: EOF"},
		"a long one":                          {`{"error":"` + strings.Repeat("é", 600) + `"}`, strings.Repeat("é", 500)},
		"a long one, cut in a character":      {`{"error":"-` + strings.Repeat("é", 600) + `"}`, "-" + strings.Repeat("é", 499)},
		"a malformed one":                     {`[]`, "the stored record of this attempt cannot be decoded"},
	} {
		if got := groupReason(&jobdb.Record{Errors: [][]byte{[]byte(c.stored)}}); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := groupReason(new(jobdb.Record)); got != "" {
		t.Errorf("without an error: %q", got)
	}
}

func FuzzParseGroup(f *testing.F) {
	f.Add(deadGroup{"support", "conversation.*", "backend answered 502"}.String())
	f.Add(deadGroup{"crm|support", "<b>\x00\u202e", ""}.String())
	f.Add("%")
	f.Fuzz(func(t *testing.T, text string) {
		group, err := parseGroup(text)
		if err != nil {
			return
		}
		again, err := parseGroup(group.String())
		if err != nil || *again != *group || !utf8.ValidString(group.Reason) {
			t.Errorf("%q became %q: %v", group, again, err)
		}
	})
}
