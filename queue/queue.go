// Package queue is an extra of intercom_webhook that stores notifications before they
// are answered, and delivers them with retries. It brings both engines; to build in one of
// them, import queue/sqlite or queue/postgres.
package queue

import (
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue/postgres" // registers the engine
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue/sqlite"   // registers the engine
)
