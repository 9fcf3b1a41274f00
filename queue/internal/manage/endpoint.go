// Package manage is what a person may do with a queue: look at lanes and deliveries, change
// what a selection has, and move everything to another database. The admin API and the pages
// offer it.
package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// Endpoint is the part of a database that belongs to an endpoint. It is to be found anew for
// each request, because configs come and go.
type Endpoint struct {
	Worker *worker.Worker
	Name   string
}

// BadRequest and NotFound return an error with its HTTP status. All other errors mean that
// the database cannot be used now, which is 503.
func BadRequest(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
}

// NotFound is as BadRequest.
func NotFound(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
}

// Status returns the HTTP status of an error.
func Status(err error) int {
	if api, ok := errors.AsType[caddy.APIError](err); ok {
		return api.HTTPStatus
	}
	return http.StatusServiceUnavailable
}

// lookTimeout bounds one look at the database.
const lookTimeout = 10 * time.Second

var (
	errNoQueue       = errors.New("the config has no queue: give an intercom_webhook a `queue`")
	errConfigChanged = errors.New("the config has changed: run it again to go on")
)

// WhileConfig returns a context that ends with the request's, and with that of the config.
func WhileConfig(request, config context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(request)
	stop := context.AfterFunc(config, func() { cancel(errConfigChanged) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// Endpoints returns the endpoints of the configs that run now, by name.
func Endpoints(workers []*worker.Worker) []Endpoint {
	var all []Endpoint
	for _, w := range workers {
		for name := range w.Config() {
			all = append(all, Endpoint{w, name})
		}
	}
	slices.SortFunc(all, func(x, y Endpoint) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// FindEndpoint returns the endpoint with a name or, for no name, the only one of the config.
// A name may also be that of an endpoint that only a database has.
func FindEndpoint(ctx context.Context, workers []*worker.Worker, name string) (Endpoint, error) {
	all := Endpoints(workers)
	if len(all) == 0 {
		return Endpoint{}, NotFound(errNoQueue)
	}
	var names []string
	var found []Endpoint
	for _, e := range all {
		names = append(names, e.Name)
		if name == "" || e.Name == name {
			found = append(found, e)
		}
	}
	names = slices.Compact(names)
	if len(found) == 0 {
		found = unconfigured(ctx, all, name)
	}
	switch {
	case len(found) == 0:
		return Endpoint{}, BadRequest(fmt.Errorf("endpoint %q: there is no such endpoint; the endpoints are %s", name, option.Choices(name, names)))
	case len(found) > 1 && name == "":
		return Endpoint{}, BadRequest(fmt.Errorf("the config has several endpoints: name one with the parameter endpoint; they are %s", option.Enumerate(names)))
	case len(found) > 1:
		return Endpoint{}, BadRequest(fmt.Errorf("endpoint %q: endpoints in several databases have this name: give them different ones with `name` in their queues", name))
	}
	return found[0], nil
}

// unconfigured returns the endpoints with a name that no config has, in all databases that
// have lanes of it.
func unconfigured(ctx context.Context, configured []Endpoint, name string) []Endpoint {
	asked := make(map[*worker.Worker]bool)
	var found []Endpoint
	for _, e := range configured {
		if asked[e.Worker] {
			continue
		}
		asked[e.Worker] = true
		one := Endpoint{e.Worker, name}
		if lanes, err := one.Lanes(ctx); err == nil && len(lanes) > 0 {
			found = append(found, one)
		}
	}
	return found
}

// inspector returns the database, or an error while it is not open.
func (e Endpoint) inspector() (db.Inspector, error) {
	database, err := e.Worker.DB()
	if err != nil {
		return nil, err
	}
	inspector, ok := database.(db.Inspector)
	if !ok {
		return nil, fmt.Errorf("queue %s: the engine cannot list or change deliveries", e.Worker.Database().Name)
	}
	return inspector, nil
}

// Lanes returns the status of the lanes of the endpoint.
func (e Endpoint) Lanes(ctx context.Context) ([]worker.LaneStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return e.Worker.Lanes(ctx, e.Name)
}

// SetPaused pauses or resumes a lane.
func (e Endpoint) SetPaused(ctx context.Context, lane string, paused bool) error {
	if err := e.checkLane(ctx, lane); err != nil {
		return err
	}
	return e.Worker.SetPaused(ctx, []db.Lane{{Endpoint: e.Name, Name: lane}}, paused)
}

// checkLane returns an error if no config has the lane, and nothing in it is unfinished or dead.
func (e Endpoint) checkLane(ctx context.Context, lane string) error {
	statuses, err := e.Lanes(ctx)
	if err != nil {
		return err
	}
	lanes := make(map[string]bool)
	for _, status := range statuses {
		lanes[status.Lane.Name] = true
	}
	if lanes[lane] {
		return nil
	}
	return BadRequest(fmt.Errorf("lane %q: there is no such lane; the lanes are %s", lane, option.Choices(lane, slices.Sorted(maps.Keys(lanes)))))
}

// checkTo returns an error if no route or copy of the config has the lane.
func (e Endpoint) checkTo(lane string) error {
	own := e.Worker.Config()[e.Name]
	if own == nil {
		return BadRequest(fmt.Errorf("to: no handler of the config has the endpoint %q: give one this name with `name` in its queue", e.Name))
	}
	var lanes []string
	for _, known := range own.Handler.Lanes {
		lanes = append(lanes, known.Name)
	}
	if slices.Contains(lanes, lane) {
		return nil
	}
	return BadRequest(fmt.Errorf("to %q: no route has this lane; the lanes are %s", lane, option.Choices(lane, lanes)))
}

// sleep pauses, or returns the cause of the context's end.
func sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
