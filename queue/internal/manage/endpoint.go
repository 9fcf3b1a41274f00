// Package manage is what a person may do with a queue: look at lanes and deliveries, change what a selection has, and
// move everything to another database. The admin API and the pages offer it.
package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// Endpoint is the part of a database that belongs to an endpoint, or to all of them if there is no name. It is to be
// found anew for each request, because configs come and go.
type Endpoint struct {
	Worker *worker.Worker
	Name   string
}

// BadRequest returns an error of the client. Errors without a status mean that the database cannot be used now.
func BadRequest(err error) error { return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err} }

// NotFound returns the error for what does not exist.
func NotFound(err error) error { return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: err} }

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

// FindEndpoints returns the endpoints of the configs that run now, by name. With a name, it returns only those of
// this name, or else those that only a database has.
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

const (
	lookTimeout = 10 * time.Second // of one look at the database

	// maxFound is how many notifications with one id are looked at: their bodies are in memory.
	maxFound = 10
)

// inspector returns the database, or an error while it is not open.
func (e Endpoint) inspector() (db.Inspector, error) {
	database, err := e.Worker.DB()
	if err != nil {
		return nil, err
	}
	return database.(db.Inspector), nil // as those of all engines
}

// List calls do with the selected deliveries, the newest first, as it finds them. It returns where to go on if there
// may be more, also after an error.
func (e Endpoint) List(ctx context.Context, s Selection, do func([]adminapi.Delivery)) (more Cursor, err error) {
	inspector, err := e.inspector()
	if err != nil {
		return s.Cursor, err
	}
	nothing := s.Cursor == Cursor{}
	err = s.each(ctx, inspector, &db.Page{Limit: s.Limit, Newest: !s.Oldest}, func(found []db.Delivery) error {
		views := make([]adminapi.Delivery, len(found))
		for i := range found {
			views[i] = viewDelivery(&found[i])
		}
		nothing = nothing && len(found) == 0
		do(views)
		return nil
	}, nil)
	if err == nil && nothing && s.Filter.Lane != "" {
		err = e.checkLane(ctx, s.Filter.Lane) // it may be misspelt
	}
	return s.Cursor, err
}

// Find returns the deliveries of each notification that has an id: Intercom's, or the number in the database.
func (e Endpoint) Find(ctx context.Context, id string) (found [][]adminapi.Details, err error) {
	if notText(id) {
		return nil, BadRequest(errors.New("the id is not text: escape UTF-8 with %, and leave out zero bytes"))
	}
	inspector, err := e.inspector()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	notifications, err := inspector.Find(ctx, e.Name, id, maxFound)
	if err == nil && len(notifications) == 0 {
		err = NotFound(fmt.Errorf("%q: no notification in the queue has this id; perhaps it was not kept any longer (keep_delivered, keep_dead)", id))
	}
	for i := range notifications {
		request := viewRequest(&notifications[i].Notification)
		var views []adminapi.Details
		for _, d := range notifications[i].Deliveries {
			view := adminapi.Details{Delivery: viewDelivery(&d.Delivery), History: []adminapi.Attempt{}, Request: request}
			for k := range d.History {
				view.History = append(view.History, viewAttempt(&d.History[k]))
			}
			views = append(views, view)
		}
		found = append(found, views)
	}
	return found, err
}

// DeadGroups groups the dead deliveries of the endpoint, the largest group first.
func (e Endpoint) DeadGroups(ctx context.Context) ([]db.DeadGroup, error) {
	inspector, err := e.inspector()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return inspector.DeadGroups(ctx, e.Name)
}

// AddDeadLetters adds to lanes of the endpoint the groups of their dead letters, the largest first. Of more than
// maxGroups, the smallest are left out.
func (e Endpoint) AddDeadLetters(ctx context.Context, lanes []adminapi.Lane) error {
	const maxGroups = 1000 // topics may be anything
	groups, err := e.DeadGroups(ctx)
	for _, g := range groups[:min(len(groups), maxGroups)] {
		at := slices.IndexFunc(lanes, func(l adminapi.Lane) bool { return l.Lane == g.Lane })
		if at >= 0 {
			lanes[at].DeadLetters = append(lanes[at].DeadLetters,
				adminapi.DeadLetters{Topic: g.Topic, Reason: string(g.Reason), Count: g.Count, Oldest: g.Oldest, Newest: g.Newest, Error: g.Error})
		}
	}
	return err
}

// BacklogStates are the states whose deliveries are counted by lane.
var BacklogStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// Lanes returns the status of the lanes of the endpoint.
func (e Endpoint) Lanes(ctx context.Context) (lanes []adminapi.Lane, err error) {
	statuses, err := e.Worker.Lanes(ctx, e.Name)
	for _, status := range statuses {
		lane := adminapi.Lane{
			Endpoint: status.Lane.Endpoint, Lane: status.Lane.Name, Kind: status.Kind, State: string(status.State),
			DownSince: status.DownSince, Error: status.Error, Workers: status.Workers, Deliveries: make(map[string]int64), OldestSeconds: status.Oldest.Seconds(),
		}
		for _, state := range BacklogStates {
			lane.Deliveries[string(state)] = status.Counts[state]
		}
		if held := status.Held; held.Objects > 0 {
			lane.HeldBack = &adminapi.HeldBack{Objects: held.Objects, OldestSeconds: held.Oldest.Seconds(), By: held.By}
		}
		lanes = append(lanes, lane)
	}
	return lanes, err
}

func viewDelivery(d *db.Delivery) adminapi.Delivery {
	return adminapi.Delivery{
		ID: d.ID, Notification: d.NotificationID, Number: d.Notification, Topic: d.Topic, Workspace: d.Workspace, Object: d.Object,
		Endpoint: d.Endpoint, Lane: d.Lane, State: string(d.State), Reason: string(d.Reason), Attempts: d.Attempts,
		StoredAt: d.StoredAt, DueAt: d.DueAt, FinishedAt: d.FinishedAt,
		Upstream: d.Upstream, Status: d.Status, Seconds: d.Duration.Seconds(), Error: d.Error,
	}
}

func viewAttempt(a *db.Attempt) adminapi.Attempt {
	view := adminapi.Attempt{
		At: a.At, Instance: a.Instance, Upstream: a.Upstream, Status: a.Status, Seconds: a.Duration.Seconds(), Error: a.Error,
	}
	if utf8.Valid(a.Answer) {
		view.Answer = string(a.Answer)
	} else {
		view.AnswerBase64 = a.Answer
	}
	return view
}

func viewRequest(n *db.Notification) *adminapi.Request {
	view := &adminapi.Request{
		Method: n.Request.Method, URI: n.Request.URI, Proto: n.Request.Proto, Host: n.Request.Host,
		RemoteAddr: n.Request.RemoteAddr, ReceivedAt: n.ReceivedAt, Header: n.Request.Header,
	}
	view.SetBody(n.Body)
	return view
}
