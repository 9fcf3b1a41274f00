// Package web has the pages of the queue.
package web

import (
	"context"
	"net/http"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// New returns the pages.
func New(ctx context.Context, w *worker.Worker, prefix string, who func(*http.Request) string) http.Handler {
	return http.NotFoundHandler()
}

// IsForm reports whether a path is that of a form.
func IsForm(prefix, path string) bool { return path == prefix+"/change" || path == prefix+"/lane" }
