package option

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestCheckDuration(t *testing.T) {
	for _, tc := range []struct {
		d, most time.Duration
		want    string // the error; none if empty
	}{
		{time.Millisecond, Year, ""},
		{Year, Year, ""},
		{time.Hour, time.Hour, ""},
		{0, Year, `age must be from 1ms to 1 year, as in "10s", and not 0s`},
		{-time.Second, Year, `age must be from 1ms to 1 year, as in "10s", and not -1s`},
		{3600, Year, `age must be from 1ms to 1 year, as in "10s", and not 3.6µs`}, // JSON: 3600
		{Year + 1, Year, `age must be from 1ms to 1 year, as in "10s", and not 8760h0m0.000000001s`},
		{11 * Year, 10 * Year, `age must be from 1ms to 10 years, as in "10s", and not 96360h0m0s`},
		{2 * time.Hour, time.Hour, `age must be from 1ms to 1h0m0s, as in "10s", and not 2h0m0s`},
	} {
		got := ""
		if err := CheckDuration("age", tc.d, tc.most); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%d of %d: error %q, want %q", tc.d, tc.most, got, tc.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]string{
		"age 2s":     "",
		"age 3d":     "",
		"age":        "wrong argument count or unexpected line ending after 'age'",
		"age 1s 2s":  "wrong argument count or unexpected line ending after '1s'",
		"age soon":   `age "soon" is not a duration such as 4.5s or 3d`,
		"age 0":      "age must be from 1ms to 96h0m0s",
		"age 5d":     "age must be from 1ms to 96h0m0s",
		"age 1000ms": "",
	} {
		d := caddyfile.NewTestDispenser(text)
		d.Next()
		duration, err := ParseDuration(d, UpTo(4*24*time.Hour))
		switch {
		case want == "" && (err != nil || duration <= 0):
			t.Errorf("%s: got %d, %v", text, duration, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Testfile:1")):
			t.Errorf("%s: error %v, want %q with its line", text, err, want)
		}
	}
}

func TestChoices(t *testing.T) {
	valid := []string{"refresh", "url", "timeout"}
	for name, want := range map[string]string{
		"refesh": "refresh, url and timeout; did you mean refresh?",
		"xyz":    "refresh, url and timeout",
	} {
		if got := Choices(name, valid); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := Enumerate([]string{"url"}); got != "url" {
		t.Errorf("got %q", got)
	}
}
