package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// endpoint is the part of a database that belongs to one endpoint. People look at it and
// change it with the admin API. It is to be found anew for each request, because it is
// that of the config that runs now.
type endpoint struct {
	dispatcher *dispatcher
	name       string
	config     attachments // that was current when the endpoint was found
}

// configuredEndpoints returns the endpoints of the configs that run now, by name.
func configuredEndpoints() []endpoint {
	var all []endpoint
	dispatchers.Range(func(_, value any) bool {
		if d, ok := value.(*dispatcher); ok && !d.stopping.Load() {
			all = append(all, d.endpoints()...)
		}
		return true
	})
	slices.SortStableFunc(all, func(x, y endpoint) int { return cmp.Compare(x.name, y.name) })
	return all
}

// endpoints returns the endpoints of the current config that use the database, by name.
func (d *dispatcher) endpoints() []endpoint {
	config := d.current()
	var all []endpoint
	for _, name := range slices.Sorted(maps.Keys(config)) {
		all = append(all, endpoint{d, name, config})
	}
	return all
}

var errNoQueue = errors.New("the config has no queue: give an intercom_webhook a `queue`")

// findEndpoint returns the endpoint with a name or, for no name, the only one of the config.
// A name may also be that of an endpoint that only the database has. The error is an answer
// of the admin API.
func findEndpoint(ctx context.Context, name string) (endpoint, error) {
	all := configuredEndpoints()
	if len(all) == 0 {
		return endpoint{}, notFound(errNoQueue)
	}
	var names []string
	var found []endpoint
	for _, e := range all {
		names = append(names, e.name)
		if name == "" || e.name == name {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		found = unconfiguredEndpoints(ctx, all, name)
	}
	switch {
	case len(found) == 0:
		return endpoint{}, badRequest(fmt.Errorf("queue %q: there is no queue of this name; the names are %s", name, option.Choices(name, names)))
	case len(found) > 1 && name == "":
		return endpoint{}, badRequest(fmt.Errorf("the config has several queues: name one with the parameter queue; the names are %s", option.Enumerate(names)))
	case len(found) > 1:
		return endpoint{}, badRequest(fmt.Errorf("queue %q: queues in several databases have this name: give them different names with `name` in their blocks", name))
	}
	return found[0], found[0].ready()
}

// unconfiguredEndpoints returns the endpoints with a name that no config has, in all databases
// that have jobs of it.
func unconfiguredEndpoints(ctx context.Context, configured []endpoint, name string) []endpoint {
	asked := make(map[*dispatcher]bool)
	var found []endpoint
	for _, e := range configured {
		e.name = name
		if asked[e.dispatcher] || e.ready() != nil {
			continue
		}
		asked[e.dispatcher] = true
		if queues, err := e.riverQueues(ctx); err == nil && len(queues) > 0 {
			found = append(found, e)
		}
	}
	return found
}

// ready returns an answer of the admin API if the database cannot be used yet.
func (e endpoint) ready() error {
	if err := e.dispatcher.ready(); err != nil {
		return unavailable(err)
	}
	return nil
}

// attachment returns the handler of the endpoint, or nil if the config has none.
func (e endpoint) attachment() *attachment { return e.config[e.name] }

// riverQueues returns the River queues of the endpoint, and of those that it has adopted:
// first the lanes of the config, in the order of the routes, and then all others that have
// jobs or that a live instance works on.
func (e endpoint) riverQueues(ctx context.Context) ([]string, error) {
	var queues []string
	if a := e.attachment(); a != nil {
		queues = a.queues(e.name)
	}
	others, err := e.dispatcher.db.QueuesWith(ctx, slices.Concat(jobdb.UnfinishedStates, jobdb.FinishedStates))
	if err != nil {
		return nil, err
	}
	others = slices.Concat(others, e.dispatcher.queuesOfOthers())
	slices.Sort(others)
	for _, queue := range slices.Compact(others) {
		if e.owns(queue) && !slices.Contains(queues, queue) {
			queues = append(queues, queue)
		}
	}
	return queues, nil
}

// allQueues returns the River queues of all endpoints, those of the config first.
func (d *dispatcher) allQueues(ctx context.Context) ([]string, error) {
	var queues []string
	for _, e := range d.endpoints() {
		own, err := e.riverQueues(ctx)
		if err != nil {
			return nil, err
		}
		queues = append(queues, own...)
	}
	others, err := d.db.QueuesWith(ctx, slices.Concat(jobdb.UnfinishedStates, jobdb.FinishedStates))
	if err != nil {
		return nil, err
	}
	for _, queue := range slices.Sorted(slices.Values(others)) {
		if !slices.Contains(queues, queue) {
			queues = append(queues, queue)
		}
	}
	return queues, nil
}

// owns reports whether a River queue belongs to the endpoint, or to one that it has adopted.
func (e endpoint) owns(queue string) bool {
	name, _ := splitRiverQueue(queue)
	a := e.attachment()
	return name == e.name || a != nil && e.config.owner(name) == a
}

// queuesOfLane returns the River queues of a lane: one, or several if an adopted endpoint has
// a lane of this name, too. For no name, it returns those of all lanes. It never returns none,
// because a filter without queues selects the jobs of all endpoints.
func (e endpoint) queuesOfLane(ctx context.Context, lane string) ([]string, error) {
	queues, err := e.riverQueues(ctx)
	if err != nil {
		return nil, err
	}
	if len(queues) == 0 { // the last job of an endpoint that no config has is gone
		queues = []string{riverQueue(e.name, unroutedLane)}
	}
	if lane == "" {
		return queues, nil
	}
	var lanes, found []string
	for _, queue := range queues {
		_, name := splitRiverQueue(queue)
		lanes = append(lanes, name)
		if name == lane {
			found = append(found, queue)
		}
	}
	if len(found) == 0 {
		return nil, &unknownLaneError{lane, lanes}
	}
	return found, nil
}

// unknownLaneError is the error for a lane that neither the config nor the database has.
type unknownLaneError struct {
	lane  string
	lanes []string
}

func (e *unknownLaneError) Error() string {
	slices.Sort(e.lanes)
	return fmt.Sprintf("lane %q: there is no such lane; the lanes are %s", e.lane, option.Choices(e.lane, slices.Compact(e.lanes)))
}
