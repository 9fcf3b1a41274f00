package intercomwebhook

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

var copyOptions = []string{"sample", "resign"}

func isCopyOption(name string) bool { return slices.Contains(copyOptions, name) }

// cutOptions reads the options of a copy in its block, and returns the segment without them.
func cutOptions(c *Copy, segment caddyfile.Segment) (caddyfile.Segment, error) {
	d := caddyfile.NewDispenser(segment)
	d.Next()
	opening := 1 + len(d.RemainingArgs())
	if opening == len(segment) { // there is no block
		return segment, nil
	}
	rest := append(caddyfile.Segment(nil), segment[:opening+1]...)
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		name := d.Val()
		var err error
		switch {
		case seen[name]:
			err = d.Errf("%s is given twice", name)
		case name == "sample":
			c.Sample, err = parseSample(d)
		case name == "resign":
			c.Resign, err = parseSigningSecret(d)
		case misspelt(name) != "":
			err = d.Errf("unknown option %s of copy: did you mean %s?", name, misspelt(name))
		default:
			rest = append(rest, d.NextSegment()...)
			continue
		}
		if err != nil {
			return nil, err
		}
		seen[name] = true
	}
	return append(rest, segment[len(segment)-1]), nil
}

// misspelt returns the option of a copy that is meant with a name that is neither a directive
// nor a named matcher and has a similar spelling, or else an empty string.
func misspelt(name string) string {
	nearest := intercom.Nearest(name, []string{copyOptions[0], copyOptions[1]}, 1)[0]
	_, err := caddy.GetModule("http.handlers." + name)
	if err == nil || strings.HasPrefix(name, "@") || levenshtein.ComputeDistance(name, nearest) > 2 {
		return ""
	}
	return nearest
}

var (
	errMisplacedOption = errors.New("`sample <percent>` and `resign <secret>` are options of copy: put them into its block, each on a line of its own")

	errNoSample = errors.New("sample: the percentage is missing, as in `sample 10%`")
	errNoResign = errors.New("resign: the secret is missing, as in `resign {env.STAGING_SECRET}`")
)

func parseSample(d *caddyfile.Dispenser) (*float64, error) {
	var text string
	if d.CountRemainingArgs() == 0 {
		return nil, d.WrapErr(errNoSample)
	}
	if !d.AllArgs(&text) {
		return nil, d.ArgErr()
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil {
		return nil, d.Errf("sample %q is not a percentage such as 10%% or 0.5%%", text)
	}
	if err := checkSample(percent); err != nil {
		return nil, d.WrapErr(err)
	}
	return &percent, nil
}

func parseSigningSecret(d *caddyfile.Dispenser) (secret string, err error) {
	switch {
	case d.CountRemainingArgs() == 0:
		return "", d.WrapErr(errNoResign)
	case !d.AllArgs(&secret):
		return "", d.ArgErr()
	case secret == "":
		return "", d.WrapErr(errNoResign)
	}
	return secret, nil
}
