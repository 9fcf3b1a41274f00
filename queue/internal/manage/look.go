package manage

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

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

// List calls do with the selected deliveries, the newest first, as it finds them. It returns
// where to go on if there may be more, also after an error.
func (e Endpoint) List(ctx context.Context, s Selection, do func([]adminapi.Delivery)) (more Cursor, err error) {
	inspector, err := e.inspector()
	if err != nil {
		return s.Cursor, err
	}
	nothing := s.Cursor == Cursor{}
	err = s.each(ctx, inspector, &db.Page{Limit: s.Limit, Newest: true}, func(found []db.Delivery) error {
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

// Find returns the deliveries of the notifications that have an id: Intercom's, or the number
// in the database.
func (e Endpoint) Find(ctx context.Context, id string) ([]adminapi.Details, error) {
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
	var views []adminapi.Details
	for i := range notifications {
		request := viewRequest(&notifications[i].Notification)
		for _, d := range notifications[i].Deliveries {
			view := adminapi.Details{Delivery: viewDelivery(&d.Delivery), History: []adminapi.Attempt{}, Request: request}
			for k := range d.History {
				view.History = append(view.History, viewAttempt(&d.History[k]))
			}
			views = append(views, view)
		}
	}
	return views, err
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

// BacklogStates are the states whose deliveries are counted by lane.
var BacklogStates = []db.State{db.Waiting, db.Delivering, db.Retrying, db.Dead}

// Lanes returns the status of the lanes of the endpoint.
func (e Endpoint) Lanes(ctx context.Context) (lanes []adminapi.Lane, err error) {
	statuses, err := e.Worker.Lanes(ctx, e.Name)
	for _, status := range statuses {
		lane := adminapi.Lane{
			Endpoint: status.Lane.Endpoint, Lane: status.Lane.Name, Kind: status.Kind, State: string(status.State),
			Workers: status.Workers, Deliveries: make(map[string]int64), OldestSeconds: status.Oldest.Seconds(),
		}
		for _, state := range BacklogStates {
			lane.Deliveries[string(state)] = status.Counts[state]
		}
		lanes = append(lanes, lane)
	}
	return lanes, err
}

func viewDelivery(d *db.Delivery) adminapi.Delivery {
	return adminapi.Delivery{
		ID: d.ID, Notification: d.NotificationID, Number: d.Notification, Topic: d.Topic, Workspace: d.Workspace,
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
	if utf8.Valid(n.Body) {
		body := string(n.Body)
		view.Body = &body
	} else {
		view.BodyBase64 = n.Body
	}
	return view
}
