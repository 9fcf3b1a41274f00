package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

func init() {
	caddy.RegisterModule(new(MatchTopic))
}

// validTopic reports whether s has the form of a topic, known or not: segments of
// [A-Za-z0-9_-], joined by dots.
func validTopic(s string) bool {
	if len(s) > maxHeaderValue {
		return false
	}
	for segment := range strings.SplitSeq(s, ".") {
		if !validSegment(segment) {
			return false
		}
	}
	return true
}

func validSegment(s string) bool {
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

// checkPattern returns an error if a topic pattern is malformed.
func checkPattern(pattern string) error {
	for segment := range strings.SplitSeq(pattern, ".") {
		switch {
		case segment == "":
			return fmt.Errorf("topic pattern %q: empty segment", pattern)
		case segment == "*", validSegment(segment):
		case strings.Contains(segment, "*"):
			return fmt.Errorf("topic pattern %q: a * must be a whole segment, as in conversation.*", pattern)
		default:
			return fmt.Errorf("topic pattern %q: segment %q has characters other than [A-Za-z0-9_-]", pattern, segment)
		}
	}
	return nil
}

// matchPattern reports whether a topic fits a valid pattern. A * in the middle of the
// pattern stands for exactly one segment, and a * at the end for one or more.
func matchPattern(pattern, topic string) bool {
	for {
		want, restPattern, morePattern := strings.Cut(pattern, ".")
		segment, restTopic, moreTopic := strings.Cut(topic, ".")
		switch {
		case want == "*" && !morePattern:
			return true
		case want != "*" && want != segment, morePattern != moreTopic:
			return false
		case !morePattern:
			return true
		}
		pattern, topic = restPattern, restTopic
	}
}

// MatchTopic matches verified notifications by their topic. It takes one or more
// patterns, and the topic must fit one of them. A pattern is a topic such as
// `conversation.user.replied`, in which segments may be `*`. A `*` stands for exactly one
// segment or, at the end, for one or more. `*` alone fits every topic. So
// `conversation.*` fits `conversation.user.replied`, but not `conversation_part.redacted`.
//
// It does not match requests that have not passed an `intercom_webhook` handler, and
// requests that are not notifications.
type MatchTopic []string

// CaddyModule returns the Caddy module information.
func (*MatchTopic) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_topic",
		New: func() caddy.Module { return new(MatchTopic) },
	}
}

// Provision warns of patterns that fit no known topic. They are not an error, because
// Intercom adds topics.
func (m *MatchTopic) Provision(ctx caddy.Context) error {
	for _, pattern := range *m {
		if !fitsKnownTopic(pattern) {
			ctx.Logger().Warn("topic pattern fits no known topic; nearest is "+nearestPattern(pattern),
				zap.String("pattern", pattern))
		}
	}
	return nil
}

// Validate refuses malformed patterns.
func (m *MatchTopic) Validate() error {
	if len(*m) == 0 {
		return errors.New("no topic pattern given")
	}
	for _, pattern := range *m {
		if err := checkPattern(pattern); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification whose topic fits.
func (m *MatchTopic) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.kind == kindNotification && slices.ContainsFunc(*m, func(pattern string) bool {
		return matchPattern(pattern, t.topic)
	}), nil
}

func fitsKnownTopic(pattern string) bool {
	for _, topic := range intercom.Topics() {
		if matchPattern(pattern, topic) {
			return true
		}
	}
	return false
}

// nearestPattern returns a pattern that fits a known topic and has the nearest spelling. It
// has a * where the given pattern has one.
func nearestPattern(pattern string) string {
	segments := strings.Split(pattern, ".")
	var candidates []string
	for _, topic := range intercom.Topics() {
		candidate := strings.Split(topic, ".")
		if segments[len(segments)-1] == "*" && len(candidate) > len(segments) {
			candidate = candidate[:len(segments)]
		}
		for i := range min(len(candidate), len(segments)) {
			if segments[i] == "*" {
				candidate[i] = "*"
			}
		}
		candidates = append(candidates, strings.Join(candidate, "."))
	}
	return intercom.Nearest(pattern, candidates, 1)[0]
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchTopic)(nil)
	_ caddy.Validator                   = (*MatchTopic)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchTopic)(nil)
)
