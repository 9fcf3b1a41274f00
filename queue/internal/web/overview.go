package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/history"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/manage"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/worker"
)

// troubles are the states of lanes of which somebody should know, the worst first.
var troubles = []worker.LaneState{worker.LaneDown, worker.LaneFailing, worker.LaneOrphaned, worker.LanePaused}

const (
	// What became a dead letter so lately is new.
	newDead = 24 * time.Hour

	// After so many error answers in a row it is said how near Intercom's limit is.
	manyErrors = 10

	// maxTroubles is how many groups of dead letters the overview names.
	maxTroubles = 5

	// Rates are those of so many minutes, and the one that runs.
	rateMinutes = 5
)

// laneView is a lane as it is shown.
type laneView struct {
	adminapi.Lane
	Hour []history.Minute
	Sum  history.Minute
	Rate float64 // attempts a minute
}

func viewLane(lane adminapi.Lane) laneView {
	v := laneView{Lane: lane, Hour: history.Hour(history.Lane(worker.Label(db.Lane{Endpoint: lane.Endpoint, Name: lane.Lane})))}
	v.Sum = history.Sum(v.Hour)
	last := history.Sum(v.Hour[len(v.Hour)-rateMinutes-1:])
	v.Rate = float64(last.Delivered+last.Failed) / (rateMinutes + .5)
	return v
}

// Trouble is the place of the state among troubles; -1 if it is none.
func (v *laneView) Trouble() int { return slices.Index(troubles, worker.LaneState(v.State)) }

// Idle reports whether there is nothing to tell of the lane for what fits no route.
func (v *laneView) Idle() bool {
	for _, n := range v.Deliveries {
		if n > 0 {
			return false
		}
	}
	return v.Lane.Lane == worker.UnroutedLane && v.Trouble() < 0 && v.Sum.Delivered+v.Sum.Failed == 0
}

// Held says how many wait; nothing if none does.
func (v *laneView) Held() string {
	if n := v.Deliveries[string(db.Waiting)] + v.Deliveries[string(db.Retrying)]; n > 0 {
		return plural(n, "delivery waits.", "deliveries wait.")
	}
	return ""
}

// Spark and P return what a row of the table shows.
func (v *laneView) Spark() template.HTML         { return spark(v.Hour) }
func (v *laneView) P(part float64) time.Duration { return v.Sum.Quantile(part) }

// Charts are those of the lane.
func (v *laneView) Charts() charts {
	return charts{Hour: v.Hour, Rates: rates(v.Hour), Backend: latencies(v.Hour, .95, 0)}
}

// charts are the charts of a page, and the minutes that they show.
type charts struct {
	Hour                    []history.Minute
	Answers                 []history.Minute // nil on the page of a lane
	Rates, Backend, Replies template.HTML
}

func allCharts() charts {
	c := charts{Hour: history.AllLanes(), Answers: history.Hour(&history.Intercom.Series)}
	for i := range c.Hour { // copies are not accepted, but made
		c.Hour[i].Accepted = c.Answers[i].Accepted
	}
	c.Rates, c.Backend = rates(c.Hour), latencies(c.Hour, .95, 0)
	c.Replies = latencies(c.Answers, .99, intercom.PriorityTimeout)
	return c
}

// Sums are of the whole hour.
func (c charts) Sum() history.Minute        { return history.Sum(c.Hour) }
func (c charts) AnswersSum() history.Minute { return history.Sum(c.Answers) }

// Rows are the minutes as rows of a table, the newest first.
func (c charts) Rows() (rows [][]string) {
	for i := len(c.Hour) - 1; i >= 0; i-- {
		m := &c.Hour[i]
		row := []string{m.At.Format("15:04"), number(m.Accepted), number(m.Delivered), number(m.Failed), took(m.Quantile(.5)), took(m.Quantile(.95))}
		if c.Answers != nil {
			row = append(row, took(c.Answers[i].Quantile(.5)), took(c.Answers[i].Quantile(.99)))
		}
		rows = append(rows, row)
	}
	return rows
}

// deadGroup is a group of the dead deliveries of an endpoint.
type deadGroup struct {
	Endpoint string
	db.DeadGroup
}

// IsNew reports whether a delivery of the group died lately.
func (g deadGroup) IsNew() bool { return time.Since(g.Newest) < newDead }

// deadTime is how long groups of dead letters are shown while their number is the same.
const deadTime = 10 * time.Second

// dead are the groups of dead letters as they were lately: to group many takes long.
type dead struct {
	mu     sync.Mutex
	asked  time.Time
	of     string // the numbers of dead letters of all lanes
	groups []deadGroup
}

// deadGroups returns those of the database, whose lanes are as they are now, the newest first.
func (p *pages) deadGroups(ctx context.Context, lanes []adminapi.Lane) ([]deadGroup, error) {
	counts := make(map[[2]string]int64)
	endpoints := make(map[string]bool)
	for _, lane := range lanes {
		if n := lane.Deliveries[string(db.Dead)]; n > 0 {
			counts[[2]string{lane.Endpoint, lane.Lane}] = n
			endpoints[lane.Endpoint] = true
		}
	}
	p.dead.mu.Lock()
	defer p.dead.mu.Unlock()
	of := fmt.Sprint(counts) // sorted
	if of == p.dead.of && time.Since(p.dead.asked) < deadTime {
		return p.dead.groups, nil
	}
	var found []deadGroup
	for _, name := range slices.Sorted(maps.Keys(endpoints)) {
		groups, err := manage.Endpoint{Worker: p.worker, Name: name}.DeadGroups(ctx)
		if err != nil {
			return nil, err
		}
		for _, group := range groups {
			found = append(found, deadGroup{name, group})
		}
	}
	slices.SortStableFunc(found, func(x, y deadGroup) int { return y.Newest.Compare(x.Newest) })
	p.dead.asked, p.dead.of, p.dead.groups = time.Now(), of, found
	return found, nil
}

// overview is what the first page shows.
type overview struct {
	Lanes     []laneView // those in trouble first
	Counts    map[string]int64
	Oldest    float64
	Dead      []deadGroup // that are new, but for the last
	MoreDead  int
	Charts    charts
	Instances []instance
	Errors    int64
	Verified  time.Time
	Addresses map[string]*ipranges.List
	First     *firstSteps // nil once something came
	Several   bool        // endpoints
}

// Trouble reports whether somebody should look at something.
func (o *overview) Trouble() bool {
	return o.Errors >= manyErrors || len(o.Dead) > 0 || slices.ContainsFunc(o.Lanes, func(v laneView) bool { return v.Trouble() >= 0 }) ||
		slices.ContainsFunc(o.Instances, func(i instance) bool { return i.Differs })
}

// instance is a Caddy that shares the database.
type instance struct {
	db.Presence
	Self, Differs bool
}

// firstSteps are for a queue into which nothing has come.
type firstSteps struct {
	URL        string
	Head, Ping time.Time
}

// serveOverview shows whether all is well.
func (p *pages) serveOverview(w http.ResponseWriter, r *http.Request) error {
	lanes, err := manage.Endpoint{Worker: p.worker}.Lanes(r.Context())
	if err != nil {
		return err
	}
	o := overview{Counts: make(map[string]int64), Charts: allCharts(), Addresses: ipranges.InUse()}
	o.Errors, o.Verified = history.Intercom.Errors.Load(), history.Intercom.Verified.Get()
	var total int64
	for _, lane := range lanes {
		for state, n := range lane.Deliveries {
			o.Counts[state] += n
			total += n
		}
		o.Oldest = max(o.Oldest, lane.OldestSeconds)
		if v := viewLane(lane); !v.Idle() {
			o.Lanes = append(o.Lanes, v)
		}
	}
	slices.SortStableFunc(o.Lanes, func(x, y laneView) int {
		return cmp.Compare(uint(x.Trouble()), uint(y.Trouble())) // -1 comes last
	})
	o.Several = slices.ContainsFunc(lanes, func(lane adminapi.Lane) bool { return lane.Endpoint != lanes[0].Endpoint })
	groups, err := p.deadGroups(r.Context(), lanes)
	if err != nil {
		return err
	}
	for _, group := range groups {
		switch {
		case !group.IsNew():
		case len(o.Dead) < maxTroubles:
			o.Dead = append(o.Dead, group)
		default:
			o.MoreDead++
		}
	}
	if o.Instances, err = p.instances(); err != nil {
		return err
	}
	if total == 0 && o.Verified.IsZero() {
		if o.First, err = p.firstSteps(r); err != nil {
			return err
		}
	}
	p.show(w, r, page{Name: "overview", Title: "Overview", Live: true, Data: &o})
	return nil
}

// instances returns the Caddys that share the database, and whose config is not that of this one.
func (p *pages) instances() (all []instance, err error) {
	found, err := p.worker.Instances()
	for i, other := range found {
		one := instance{Presence: other, Self: i == 0}
		for name, hash := range found[0].Configs {
			one.Differs = one.Differs || other.Configs[name] != hash
		}
		all = append(all, one)
	}
	return all, err
}

// firstSteps returns nil if something is there that was delivered.
func (p *pages) firstSteps(r *http.Request) (*firstSteps, error) {
	change, err := manage.Read(manage.Endpoint{Worker: p.worker}, map[string][]string{"limit": {"1"}}, "", "")
	if err != nil {
		return nil, err
	}
	empty := true
	_, err = manage.Endpoint{Worker: p.worker}.List(r.Context(), change.Selection, func(some []adminapi.Delivery) { empty = empty && len(some) == 0 })
	if err != nil || !empty {
		return nil, err
	}
	scheme, own := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	host, path := p.webhook()
	if host != "" && host != (&url.URL{Host: own}).Hostname() {
		scheme, own = "https", host
	}
	return &firstSteps{scheme + "://" + own + cmp.Or(path, "/<path of intercom_webhook>"), history.Intercom.Head.Get(), history.Intercom.Ping.Get()}, nil
}

// serveLane shows a lane.
func (p *pages) serveLane(w http.ResponseWriter, r *http.Request) error {
	e, _, err := p.endpoint(r)
	if err != nil {
		return err
	}
	lanes, err := manage.Endpoint{Worker: p.worker}.Lanes(r.Context())
	if err != nil {
		return err
	}
	name := r.FormValue("lane")
	i := slices.IndexFunc(lanes, func(lane adminapi.Lane) bool { return lane.Lane == name && (e.Name == "" || lane.Endpoint == e.Name) })
	if i < 0 {
		return manage.NotFound(errors.New("no config has this lane, and nothing waits or is dead in it"))
	}
	groups, err := p.deadGroups(r.Context(), lanes)
	if err != nil {
		return err
	}
	var own []deadGroup
	for _, group := range groups {
		if group.Lane == name && group.Endpoint == lanes[i].Endpoint {
			own = append(own, group)
		}
	}
	view := viewLane(lanes[i])
	self, err := p.instances()
	if err != nil {
		return err
	}
	p.show(w, r, page{Name: "lane", Title: "Lane " + name, Live: true, Data: map[string]any{"Lane": &view, "Dead": own, "Charts": view.Charts(), "Instances": self}})
	return nil
}

// servePause pauses or resumes a lane.
func (p *pages) servePause(w http.ResponseWriter, r *http.Request) error {
	action, lane, endpoint := r.PostFormValue("action"), r.PostFormValue("lane"), r.PostFormValue("endpoint")
	if action != "pause" && action != "resume" || lane == "" || endpoint == "" {
		return manage.BadRequest(errors.New("give an endpoint, a lane, and the action pause or resume"))
	}
	if err := (manage.Endpoint{Worker: p.worker, Name: endpoint}).SetPaused(r.Context(), lane, action == "pause", p.who(r)); err != nil {
		return err
	}
	http.Redirect(w, r, p.prefix+"/lane?"+string(query("endpoint", endpoint, "lane", lane)), http.StatusSeeOther)
	return nil
}
