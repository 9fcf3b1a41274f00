// Package manage is what a person may do with a queue: look at lanes and deliveries, change
// what a selection has, and move everything to another database. The admin API and the pages
// offer it.
package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// Endpoint is the part of a database that belongs to an endpoint, or to all of them if there
// is no name. It is to be found anew for each request, because configs come and go.
type Endpoint struct {
	Worker *worker.Worker
	Name   string
}

// BadRequest returns an error of the client. Errors without a status mean that the database
// cannot be used now.
func BadRequest(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
}

// NotFound returns the error for what does not exist.
func NotFound(err error) error {
	return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err}
}

// Status returns the HTTP status of an error.
func Status(err error) int {
	if api, ok := errors.AsType[caddy.APIError](err); ok {
		return api.HTTPStatus
	}
	if errors.Is(err, ErrNoQueue) {
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

// ErrNoQueue is the error for a config that has no queue, or has not started any yet.
var ErrNoQueue = errors.New("the config has no queue: give an intercom_webhook a `queue`")

var errConfigChanged = errors.New("the config has changed: run it again to go on")

// WhileConfig returns a context that ends with the request's, and with that of the config.
func WhileConfig(request, config context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(request)
	stop := context.AfterFunc(config, func() { cancel(errConfigChanged) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// FindEndpoints returns the endpoints of the configs that run now, by name. With a name, it returns
// only those of this name, or else those that only a database has.
func FindEndpoints(ctx context.Context, workers []*worker.Worker, name string) (found []Endpoint, err error) {
	var names []string
	for _, w := range workers {
		for own := range w.Config() {
			names = append(names, own)
			if name == "" || own == name {
				found = append(found, Endpoint{w, own})
			}
		}
	}
	if len(names) == 0 {
		return nil, ErrNoQueue
	}
	if len(found) == 0 {
		for _, w := range workers {
			if lanes, err := w.Lanes(ctx, name); err == nil && len(lanes) > 0 {
				found = append(found, Endpoint{w, name})
			}
		}
	}
	if len(found) == 0 {
		return nil, oneOf("endpoint", name, names)
	}
	slices.SortStableFunc(found, func(x, y Endpoint) int { return strings.Compare(x.Name, y.Name) })
	return found, nil
}

// FindEndpoint returns the endpoint with a name or, for no name, the only one.
func FindEndpoint(ctx context.Context, workers []*worker.Worker, name string) (Endpoint, error) {
	found, err := FindEndpoints(ctx, workers, name)
	switch {
	case err != nil:
		return Endpoint{}, err
	case len(found) == 1:
		return found[0], nil
	case name != "":
		return Endpoint{}, BadRequest(fmt.Errorf("endpoint %q: endpoints in several databases have this name: give them different ones with `name` in their queues", name))
	}
	var names []string
	for _, e := range found {
		names = append(names, e.Name)
	}
	return Endpoint{}, BadRequest(fmt.Errorf("the config has several endpoints: name one with the parameter endpoint; the names are %s", option.Enumerate(slices.Compact(names))))
}

// SetPaused pauses or resumes a lane, and logs who did it.
func (e Endpoint) SetPaused(ctx context.Context, lane string, paused bool, who string) error {
	err := e.checkLane(ctx, lane)
	if err == nil {
		err = e.Worker.SetPaused(ctx, []db.Lane{{Endpoint: e.Name, Name: lane}}, paused)
	}
	if err == nil {
		e.log("a person has paused or resumed a lane", zap.String("who", who), zap.String("lane", lane), zap.Bool("paused", paused))
	}
	return err
}

// log logs what a person has changed.
func (e Endpoint) log(message string, fields ...zap.Field) {
	fields = append(fields, zap.String("endpoint", e.Name), zap.String("database", e.Worker.Database().Name))
	caddy.Log().Named("http.intercom_webhook.queues").Info(message, fields...)
}

// checkLane returns an error if no config has the lane, and nothing in it is unfinished or dead.
func (e Endpoint) checkLane(ctx context.Context, lane string) error {
	known, err := e.Lanes(ctx)
	if err != nil {
		return err
	}
	var lanes []string
	for i := range known {
		lanes = append(lanes, known[i].Lane)
	}
	return oneOf("lane", lane, lanes)
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
	return oneOf("lane", lane, lanes)
}

// oneOf returns an error if a name is not one of the valid ones.
func oneOf(what, name string, valid []string) error {
	if slices.Contains(valid, name) {
		return nil
	}
	slices.Sort(valid)
	return BadRequest(fmt.Errorf("%s %q: there is no such %[1]s; they are %[3]s", what, name, option.Choices(name, slices.Compact(valid))))
}
