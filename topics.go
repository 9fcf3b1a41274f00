package intercomwebhook

import (
	"errors"
	"net/http"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

func init() {
	caddy.RegisterModule(new(MatchTopic))
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
		if !topicpattern.FitsKnownTopic(pattern) {
			ctx.Logger().Warn("topic pattern fits no known topic; nearest is "+topicpattern.Nearest(pattern),
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
		if err := topicpattern.Check(pattern); err != nil {
			return err
		}
	}
	return nil
}

// MatchWithError reports whether the request is a notification whose topic fits.
func (m *MatchTopic) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && t.kind == kindNotification && slices.ContainsFunc(*m, func(pattern string) bool {
		return topicpattern.Matches(pattern, t.topic)
	}), nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchTopic)(nil)
	_ caddy.Validator                   = (*MatchTopic)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchTopic)(nil)
)
