package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

// maxIndentDepth is how deeply a body may be nested to be indented. One that is nested more
// deeply is shown as it is: each line would be indented so far that a small body becomes a huge
// page.
const maxIndentDepth = 50

// endpoint returns the endpoint of a name or, for no name, the first one of the config.
func (p *pages) endpoint(name string) manage.Endpoint {
	if names := p.endpoints(nil); name == "" && len(names) > 0 {
		name = names[0]
	}
	return manage.Endpoint{Worker: p.worker, Name: name}
}

// serveDeliveries lists deliveries by filters, the newest first.
func (p *pages) serveDeliveries(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	maps.DeleteFunc(query, func(_ string, values []string) bool { // fields that were left empty
		return !slices.ContainsFunc(values, func(v string) bool { return v != "" })
	})
	parameters, err := manage.ParseParameters(query.Encode(), manage.ListParameters)
	if err != nil {
		return err
	}
	e := p.endpoint(parameters.Get("endpoint"))
	selected, err := e.Read(parameters, "", "")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), listTime, errors.New("looking for deliveries takes long: go on with older ones"))
	defer cancel()
	var found []adminapi.Delivery
	more, err := e.List(ctx, selected.Selection, func(some []adminapi.Delivery) { found = append(found, some...) })
	if err != nil {
		if ctx.Err() == nil || r.Context().Err() != nil {
			return err
		}
		err = context.Cause(ctx)
	}
	older := ""
	if text := more.String(); text != "" {
		next := url.Values(maps.Clone(query))
		next.Set("cursor", text)
		older = p.Path + "/deliveries?" + next.Encode()
	}
	p.show(w, http.StatusOK, "deliveries", struct {
		Query           url.Values
		States, Reasons []string
		Endpoint        string
		Endpoints       []string
		Found           []adminapi.Delivery
		Older           string
		Err             error
	}{query, manage.Names(db.States), manage.Names(db.Reasons), e.Name, p.endpoints(nil), found, older, err})
	return nil
}

// serveNotification shows the notifications that have an id, with their deliveries.
func (p *pages) serveNotification(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimSpace(r.URL.Query().Get("id"))
	if id == "" {
		http.Redirect(w, r, p.Path+"/", http.StatusSeeOther)
		return nil
	}
	e := p.endpoint(r.URL.Query().Get("endpoint"))
	found, err := e.Find(r.Context(), id)
	if err != nil {
		return err
	}
	var notifications [][]adminapi.Details // the deliveries of each
	for i := range found {
		if i == 0 || found[i].Number != found[i-1].Number {
			notifications = append(notifications, nil)
		}
		last := len(notifications) - 1
		notifications[last] = append(notifications[last], found[i])
	}
	p.show(w, http.StatusOK, "notification", struct {
		ID            string
		Notifications [][]adminapi.Details
	}{id, notifications})
	return nil
}

// readable returns the body of a request in a form for people.
func readable(request *adminapi.Request) string {
	body := string(request.BodyBase64)
	if request.Body != nil {
		body = *request.Body
	}
	var indented bytes.Buffer
	if depth(body) <= maxIndentDepth && json.Indent(&indented, []byte(body), "", "  ") == nil {
		return indented.String()
	}
	return body
}

// depth returns how deeply a JSON text is nested.
func depth(text string) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}
