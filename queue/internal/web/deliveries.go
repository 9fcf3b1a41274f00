package web

import (
	"context"
	"errors"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
)

const (
	listTime = 2 * time.Second        // that a list looks for deliveries, before it shows what it has
	liveTime = 250 * time.Millisecond // what takes longer is not refreshed by the script: it is work for the database
)

// list is what the page of deliveries shows.
type list struct {
	Query     url.Values
	Endpoint  string
	Endpoints []string
	States    []string
	Reasons   []string
	Lanes     []string
	Found     []adminapi.Delivery
	Older     template.URL // query of the next ones
	Filtered  template.URL // the filter alone, as a query
	Verbs     []manage.Verb
	Err       error
}

// More reports whether one of the fields is set that are folded otherwise.
func (l list) More() bool {
	return slices.ContainsFunc([]string{"notification", "workspace", "status", "reason", "until", "finished_since", "finished_until", "order"}, l.Query.Has)
}

// filled returns the parameters of a form, without the fields that were left empty.
func filled(values url.Values) url.Values {
	values = maps.Clone(values)
	maps.DeleteFunc(values, func(_ string, given []string) bool { return strings.Join(given, "") == "" })
	return values
}

// serveDeliveries lists deliveries by filters, the newest first.
func (p *pages) serveDeliveries(w http.ResponseWriter, r *http.Request) error {
	query := filled(r.URL.Query())
	if len(query) < len(r.URL.Query()) { // so that the address of a form can be sent to a colleague
		http.Redirect(w, r, p.prefix+"/deliveries?"+query.Encode(), http.StatusSeeOther) //nolint:gosec // within the pages
		return nil
	}
	e, all, err := p.endpoint(r)
	if err != nil {
		return err
	}
	l := list{
		Query: query, Endpoint: e.Name, Endpoints: all,
		States: manage.Names(db.States), Reasons: manage.Names(db.Reasons),
	}
	lanes, err := p.lanes(r.Context())
	if err != nil {
		return err
	}
	for i := range lanes {
		l.Lanes = append(l.Lanes, lanes[i].Lane)
	}
	slices.Sort(l.Lanes)
	l.Lanes = slices.Compact(l.Lanes)
	shown := page{Name: "deliveries", Title: "Deliveries", Live: true}
	parameters, err := manage.ParseParameters(l.Query.Encode(), manage.ListParameters)
	var change manage.Change
	if err == nil {
		change, err = manage.Read(e, parameters, "", "")
	}
	if err == nil {
		l.Filtered, l.Verbs = filterOf(parameters, e.Name)
		began := time.Now()
		err = p.list(r.Context(), e, change.Selection, &l)
		shown.Live = time.Since(began) < liveTime
	}
	if err != nil { // what was entered stays in the form
		l.Err, shown.Status, shown.Live = err, manage.Status(err), false
	}
	shown.Data = l
	p.show(w, r, shown)
	return nil
}

// list finds the deliveries of a page.
func (p *pages) list(ctx context.Context, e manage.Endpoint, s manage.Selection, l *list) error {
	limited, cancel := context.WithTimeoutCause(ctx, listTime, errors.New("looking for deliveries takes long: go on with older ones"))
	defer cancel()
	more, err := e.List(limited, s, func(some []adminapi.Delivery) { l.Found = append(l.Found, some...) })
	if text := more.String(); text != "" {
		next := maps.Clone(l.Query)
		next.Set("cursor", text)
		l.Older = template.URL(next.Encode()) //nolint:gosec // it is escaped
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		l.Err, err = context.Cause(limited), nil
	}
	return err
}

// filterOf returns the filter in the parameters of a list, as the parameters of a change, and what can be done with
// the deliveries that it selects. There is none without a filter, or for several endpoints at once.
func filterOf(parameters url.Values, endpoint string) (text template.URL, verbs []manage.Verb) {
	filter := maps.Clone(parameters)
	for _, name := range []string{"cursor", "limit", "order", "endpoint"} {
		filter.Del(name)
	}
	if len(filter) == 0 || endpoint == "" {
		return "", nil
	}
	states := strings.Split(filter.Get("state"), ",")
	for _, verb := range buttons {
		if filter.Get("state") == "" || slices.ContainsFunc(states, func(state string) bool { return may(verb, state) }) {
			verbs = append(verbs, verb)
		}
	}
	filter.Set("endpoint", endpoint)
	return template.URL(filter.Encode()), verbs //nolint:gosec // it is escaped
}

// serveDead groups the dead letters.
func (p *pages) serveDead(w http.ResponseWriter, r *http.Request) error {
	lanes, err := manage.Endpoint{Worker: p.worker}.Lanes(r.Context())
	if err != nil {
		return err
	}
	groups, err := p.deadGroups(r.Context(), lanes)
	if err != nil {
		return err
	}
	several := slices.ContainsFunc(groups, func(g deadGroup) bool { return g.Endpoint != groups[0].Endpoint })
	var total int64
	for _, group := range groups {
		total += group.Count
	}
	p.show(w, r, page{Name: "dead", Title: "Dead letters", Live: true, Data: map[string]any{"Groups": groups, "Total": total, "Several": several}})
	return nil
}

// serveFind finds what somebody has the id of: a notification or, if there is none, an object in Intercom.
func (p *pages) serveFind(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimSpace(r.FormValue("id"))
	if id == "" {
		http.Redirect(w, r, p.prefix+"/", http.StatusSeeOther)
		return nil
	}
	all, err := p.endpoints(r)
	if err != nil {
		return err
	}
	to := p.prefix + "/deliveries?" + string(query("object", id))
	for _, name := range all {
		found, err := manage.Endpoint{Worker: p.worker, Name: name}.Find(r.Context(), id)
		if err == nil && len(found) > 0 {
			to = p.prefix + "/notification?" + string(query("endpoint", name, "id", id))
			break
		}
		if err != nil && manage.Status(err) != http.StatusNotFound {
			return err
		}
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}
