// Package metrics has what all Prometheus metrics of this module share.
package metrics

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Namespace and Subsystem begin the name of every metric.
const (
	Namespace = "caddy"
	Subsystem = "intercom_webhook"
)

// Opts returns the options of a metric.
func Opts(name, help string) prometheus.Opts {
	return prometheus.Opts{Namespace: Namespace, Subsystem: Subsystem, Name: name, Help: help}
}

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

// Lanes has the lanes of the configs that are in use.
var Lanes = &laneCounter{
	count: make(map[Lane]int),
	info: prometheus.NewGaugeVec(prometheus.GaugeOpts(Opts("lane_info",
		"The lanes of the config, by kind: route or copy. The value is 1.")), []string{"lane", "kind"}),
}

// Lane is the lane of a route or a copy.
type Lane struct {
	Label string
	Kind  string // route or copy
}

// laneCounter counts how many configs have a lane: those before and after a reload have the
// same ones.
type laneCounter struct {
	mu    sync.Mutex
	count map[Lane]int
	info  *prometheus.GaugeVec
}

// Collector returns the collector to register.
func (c *laneCounter) Collector() prometheus.Collector { return c.info }

// Add adds a lane.
func (c *laneCounter) Add(l Lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[l]++
	c.info.WithLabelValues(l.Label, l.Kind).Set(1)
}

// Remove removes a lane that was added, unless another config has it.
func (c *laneCounter) Remove(l Lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count[l]--; c.count[l] == 0 {
		delete(c.count, l)
		c.info.DeleteLabelValues(l.Label, l.Kind)
	}
}
