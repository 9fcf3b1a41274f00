package intercomwebhook

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
)

// The functions here warn of configs that load, but are probably not what is meant. The
// field do says what to do; `doctor --config` shows these lines.

func warnOfTimeout(logger *zap.Logger, timeout time.Duration) {
	if timeout >= intercom.AnswerTimeout {
		logger.Warn("timeout is not below the time that Intercom waits: if a backend is slow, Intercom gets no answer, and sends again",
			zap.Duration("timeout", timeout), zap.Duration("intercom_waits", intercom.AnswerTimeout),
			zap.String("do", "leave it out: the default is 4.5s"))
	}
}

func warnOfSources(logger *zap.Logger, intercoms bool, server *caddyhttp.Server) {
	if forgeable(server) {
		logger.Warn("source addresses can be forged: with trusted_proxies but without trusted_proxies_strict "+
			"Caddy uses the leftmost address of X-Forwarded-For, which the sender writes",
			zap.String("do", "add trusted_proxies_strict to the server's options"))
	}
	if !intercoms {
		logger.Warn("allow does not have intercom: Intercom's addresses change, and only the IP source intercom follows them",
			zap.String("do", "add `allow intercom`"))
	}
}

func warnOfRoutes(logger *zap.Logger, routes []route, queued, fin bool) {
	if len(routes) == 0 {
		return
	}
	topics := intercom.Topics()
	if fin {
		topics = append(topics, intercom.FinTopics()...)
	} else if i := slices.IndexFunc(routes, func(r route) bool { return slices.ContainsFunc(patternsOf(r.matchers), intercom.IsFin) }); i >= 0 {
		logger.Warn("a route is for events of the Fin Agent API, which are refused without fin_secret", zap.Int("route", i), zap.String("do", "add `fin_secret`"))
	}
	fate := "become dead letters"
	if !queued {
		fate = "are answered with 200 and lost"
		logger.Warn("there is no queue: what a backend does not take at once, Intercom sends once more after a minute, and then it is lost",
			zap.String("do", "add `queue`"))
	}
	var none, some []string // topics that no route takes, and those of which the routes leave some
	for _, topic := range topics {
		switch fits, always := fitsRoutes(routes, topic); {
		case always, topic == intercom.TopicPing:
		case fits:
			some = append(some, topic)
		default:
			none = append(none, topic)
		}
	}
	const do = "add `route *` at the end"
	if len(none) > 0 {
		logger.Warn(fmt.Sprintf("no route takes %d known topics: %s; they %s", len(none), firstOf(none), fate),
			zap.String("do", "do not subscribe to them, or "+do))
	}
	if len(some) > 0 {
		logger.Warn(fmt.Sprintf("the routes take only some notifications of %d known topics: %s; those of other workspaces, or that conditions or other matchers exclude, %s",
			len(some), firstOf(some), fate), zap.String("do", do))
	}
}

// fitsRoutes reports whether some notifications of the topic fit a route, and whether all
// of them do.
func fitsRoutes(routes []route, topic string) (some, all bool) {
	covers := func(c coverage) bool { return topicpattern.Covers(c.topics, topic) }
	for _, r := range routes {
		possible, certain := coverageOf(r.matchers)
		some = some || slices.ContainsFunc(possible, covers)
		all = all || slices.ContainsFunc(certain, func(c coverage) bool { return c.workspace == "" && covers(c) })
	}
	return some, all
}

// firstOf joins the first of some names.
func firstOf(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
