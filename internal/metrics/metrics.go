// Package metrics has what all Prometheus metrics of this module share.
package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Namespace and Subsystem begin the name of every metric.
const (
	Namespace = "caddy"
	Subsystem = "intercom_webhook"
)

// Register registers collectors that live as long as the process. Caddy makes a new
// registry at every load of a config, so every Provision must call Register. Collectors
// that the registry already has are no error.
func Register(registry *prometheus.Registry, collectors ...prometheus.Collector) error {
	for _, collector := range collectors {
		err := registry.Register(collector)
		if already := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}
