package intercomwebhook

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/failover"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// The functions here make the parts of a Handler from its config.

func newVerifier(ctx caddy.Context, h *Handler, server *caddyhttp.Server, placed *zap.Logger) (*verifier, error) {
	clientSecrets, err := secrets.New("client_secret", h.ClientSecrets, placed, startSecretMatches(signature.Hub))
	if err != nil {
		return nil, err
	}
	v := &verifier{keys: clientSecrets.Keys, maxSize: h.MaxSize, appRequests: len(h.AppRequests) > 0}
	if len(h.FinSecrets) > 0 {
		finSecrets, err := secrets.New("fin_secret", h.FinSecrets, placed, startSecretMatches(signature.Fin))
		if err != nil {
			return nil, err
		}
		v.finKeys = finSecrets.Keys
		if share(v.keys(), v.finKeys()) {
			return nil, errFinSecretShared
		}
	}
	sources, intercoms, err := loadSources(ctx, h)
	if err != nil {
		return nil, err
	}
	warnOfSources(placed, intercoms, server)
	v.sources = sources
	return v, nil
}

var errFinSecretShared = errors.New("fin_secret has the value of a client_secret, and the two are never the same: give the secret that is shown under Fin AI Agent > Deploy > Fin Agent API")

// share reports whether a secret is among both. What is signed for one scheme would fit another.
func share(some, others []*signature.Key) bool {
	return slices.ContainsFunc(some, func(key *signature.Key) bool {
		of := key.Header(signature.Body, nil)
		return slices.ContainsFunc(others, func(other *signature.Key) bool { return other.Header(signature.Body, nil) == of })
	})
}

func newRouter(ctx caddy.Context, h *Handler, placed *zap.Logger) (a *router, err error) {
	plan, err := loadFields(ctx)
	if err != nil {
		return nil, err
	}
	a = &router{fields: plan, label: func(lane string) string { return lane }, logger: h.logger, floodLogger: h.floodLogger}
	lanes := make(laneSet)
	if h.QueueRaw == nil && slices.ContainsFunc(h.Routes, func(one Route) bool { return one.Once != nil }) {
		return nil, errOnceWithoutQueue
	}
	if a.routes, err = provisionRoutes(ctx, h.Routes, lanes); err != nil {
		return nil, err
	}
	if a.copies, err = provisionCopies(ctx, h.Copies, lanes, placed); err != nil {
		return nil, err
	}
	if err := h.AppRequests.Provision(ctx); err != nil {
		return nil, fmt.Errorf("app_requests: %w", err)
	}
	failover.PrepareRoutes(h.AppRequests)
	warnOfRoutes(placed, a.routes, h.QueueRaw != nil, len(h.FinSecrets) > 0)
	return a, nil
}

// newStorer returns nil if there is no queue.
func newStorer(ctx caddy.Context, h *Handler, server *caddyhttp.Server, hash []byte) (*storer, error) {
	switch {
	case h.QueueRaw == nil && len(h.Copies) > 0:
		return nil, errCopyWithoutQueue
	case h.QueueRaw == nil:
		return nil, nil //nolint:nilnil // there is none
	}
	module, err := ctx.LoadModule(h, "QueueRaw")
	if err != nil {
		return nil, fmt.Errorf("loading queue: %w", err)
	}
	queue := module.(Queue)
	h.router.label = queue.LaneLabel
	s := &storer{queue: queue, router: h.router, server: server, floodLogger: h.floodLogger}
	return s, s.attach(hash)
}
