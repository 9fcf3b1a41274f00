package jobdb

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"
)

var (
	modelSeed  = flag.Uint64("jobdb.seed", 0, "run the model with this seed only")
	modelSteps = flag.Int("jobdb.steps", 300, "steps of each sequence of the model")
	modelSeeds = flag.Int("jobdb.seeds", 4, "how many sequences of the model to run")
)

func testModel(t *testing.T, e engine) {
	seeds := []uint64{*modelSeed}
	if *modelSeed == 0 {
		seeds = nil
		for range *modelSeeds {
			seeds = append(seeds, rand.Uint64())
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Logf("again with: -jobdb.seed %d -jobdb.steps %d", seed, *modelSteps)
			m := newModel(t, e, seed)
			for m.step = 0; m.step < *modelSteps && !t.Failed(); m.step++ {
				m.next()
				m.check()
			}
			if !t.Failed() {
				m.finishAll()
			}
		})
	}
}

// model is what a database should be like after a sequence of calls.
type model struct {
	t        *testing.T
	r        *rand.Rand
	e        engine
	d        database
	step     int
	workers  []*worker // those that live
	jobs     map[int64]*modelJob
	keys     map[string]int64 // ids by unique key
	dead     map[string]bool  // names of instances that have ended
	lastArgs int
}

// worker is an instance and what it knows: what it holds is in memory, as in a process.
type worker struct {
	*instance
	person person
	held   map[int64]Job
	past   []Job // of claims that have ended
}

type modelJob struct {
	id              int64
	queue, key      string
	args            int
	state, from     State // from: which it was claimed from
	attempt, errors int
	claims          []string // attempted_by
	cancelRequested bool     // during this claim
	everCancelled   bool
	history         []string
}

var modelQueues = []string{"one", "two"}

func newModel(t *testing.T, e engine, seed uint64) *model {
	m := &model{
		t: t, r: rand.New(rand.NewPCG(seed, 0)), e: e, d: e.create(t),
		jobs: make(map[int64]*modelJob), keys: make(map[string]int64), dead: make(map[string]bool),
	}
	m.join()
	if e.shared {
		m.join()
	}
	return m
}

// join starts a process.
func (m *model) join() {
	w := &worker{instance: m.d.open(m.t), held: make(map[int64]Job)}
	client := clientUser{m.d.client(m.t), m.t.Context()}
	switch m.r.IntN(3) {
	case 0:
		w.person = client
	case 1:
		w.person = newUIUser(m.t, w.instance)
	case 2:
		w.person = apiUser{client, w.DB}
	}
	m.workers = append(m.workers, w)
	m.beat(w)
}

func (m *model) beat(w *worker) {
	if _, err := w.Beat(m.t.Context(), Presence{Queues: modelQueues}); err != nil {
		m.t.Fatalf("step %d: beating: %v", m.step, err)
	}
}

func (j *modelJob) note(m *model, format string, args ...any) {
	j.history = append(j.history, fmt.Sprintf("%d: %s", m.step, fmt.Sprintf(format, args...)))
}

func (m *model) errorf(j *modelJob, format string, args ...any) {
	m.t.Helper()
	m.t.Errorf("step %d: job %d: %s\n\t%s", m.step, j.id, fmt.Sprintf(format, args...), strings.Join(j.history, "\n\t"))
}

// end ends a claim in the model.
func (j *modelJob) end(state State) {
	if j.cancelRequested && state.Unfinished() {
		state = StateCancelled
	}
	j.state, j.cancelRequested = state, false
}

// release ends a claim that is no attempt.
func (j *modelJob) release(m *model, why string) {
	j.attempt--
	j.claims = j.claims[:len(j.claims)-1]
	j.end(j.from)
	j.note(m, "%s to %s", why, j.state)
}

func (m *model) next() {
	w := m.workers[m.r.IntN(len(m.workers))]
	actions := []struct {
		weight int
		do     func(w *worker)
	}{
		{24, m.store},
		{26, m.claim},
		{26, m.finish},
		{4, m.checkRunning},
		{10, m.interfere},
		{3, m.kill},
		{2, m.stepClock},
		{2, m.reclock},
		{2, m.rescue},
		{2, m.expire},
	}
	if w.lose != nil {
		actions = append(actions, []struct {
			weight int
			do     func(w *worker)
		}{{6, m.loseReply}, {3, m.tick}, {1, m.stall}}...)
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := m.r.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			a.do(w)
			return
		}
	}
}

// ----- storing -----

func (m *model) newBatch() []*NewJob {
	jobs := make([]*NewJob, m.r.IntN(6))
	token := newToken()
	batch := make(map[string]bool)
	for n := range jobs {
		jobs[n] = m.newJob(token)
		if key := fmt.Sprintf("key %d", m.r.IntN(60)); m.r.IntN(2) == 0 && !batch[key] {
			batch[key] = true
			jobs[n].UniqueKey = []byte(key)
		}
		for range m.r.IntN(6) - 3 {
			jobs[n].With = append(jobs[n].With, m.newJob(token))
		}
	}
	return jobs
}

func (m *model) newJob(token Token) *NewJob {
	m.lastArgs++
	j := &NewJob{Queue: modelQueues[m.r.IntN(len(modelQueues))], Kind: testKind, MaxAttempts: 1 + m.r.IntN(5)}
	j.Args = fmt.Appendf(nil, `{"n": %d, "pad": "%s"}`, m.lastArgs, strings.Repeat("<", m.r.IntN(100)))
	if m.r.IntN(2) == 0 {
		j.Token = token
	}
	if m.r.IntN(4) > 0 {
		j.Tags = []string{fmt.Sprintf("workspace %d", m.r.IntN(5))}
	}
	if m.r.IntN(20) == 0 {
		j.Kind = strings.Repeat("k", 128) // which is refused
	}
	return j
}

func refused(j *NewJob) bool { return len(j.Kind) > 127 }

func (m *model) add(w *worker, id int64, j *NewJob) *modelJob {
	added := &modelJob{id: id, queue: j.Queue, key: string(j.UniqueKey), state: StateAvailable, from: StateAvailable}
	fmt.Sscanf(string(j.Args), `{"n": %d`, &added.args)
	if j.Token != 0 {
		added.state, added.attempt, added.claims = StateRunning, 1, []string{w.holder(j.Token)}
	}
	m.jobs[id] = added
	if j.UniqueKey != nil {
		m.keys[added.key] = id
	}
	added.note(m, "stored as %s", added.state)
	return added
}

func (m *model) store(w *worker) {
	jobs := m.newBatch()
	for n, s := range w.store(m.t, jobs...) {
		_, known := m.keys[string(jobs[n].UniqueKey)]
		if known != s.Duplicate && !refused(jobs[n]) {
			m.t.Errorf("step %d: %+v for key %q, which is known: %t", m.step, s, jobs[n].UniqueKey, known)
		}
		m.stored(w, jobs[n], s)
		with := jobs[n].With
		if s.ID == 0 {
			with = nil
		}
		if len(s.With) != len(with) {
			m.t.Errorf("step %d: %+v, want %d results of what is with it", m.step, s, len(with))
			continue
		}
		for k, j := range with {
			m.stored(w, j, s.With[k])
		}
	}
}

// stored notes a job that was stored or refused, or is a duplicate.
func (m *model) stored(w *worker, j *NewJob, s Stored) {
	m.t.Helper()
	switch {
	case refused(j):
		if s.Err == nil || s.ID != 0 {
			m.t.Errorf("step %d: %+v, want it refused", m.step, s)
		}
	case s.Duplicate != (s.ID == 0) || s.Err != nil || m.jobs[s.ID] != nil:
		m.t.Errorf("step %d: %+v for key %q", m.step, s, j.UniqueKey)
	case !s.Duplicate:
		m.add(w, s.ID, j)
		if j.Token != 0 {
			w.held[s.ID] = Job{ID: s.ID, Token: j.Token, Queue: j.Queue, Attempt: 1}
		}
	}
}

// ----- claiming -----

func (m *model) newClaim() Claim {
	c := Claim{Queue: modelQueues[m.r.IntN(len(modelQueues))], Token: newToken(), Limit: 1 + m.r.IntN(12), MaxBytes: 1 << 20}
	if m.r.IntN(3) == 0 {
		c.MaxBytes = 1 + m.r.IntN(400)
	}
	if m.r.IntN(3) == 0 {
		for _, j := range m.sorted() {
			if m.r.IntN(4) == 0 {
				c.Except = append(c.Except, j.id)
			}
		}
	}
	return c
}

// claimable returns what a claim may take: fresh jobs, those that are due, and those that
// may be by the time of the claim.
func (m *model) claimable(c Claim) (fresh, due, soon []int64) {
	for _, r := range m.d.rows(m.t) {
		switch {
		case r.queue != c.Queue || slices.Contains(c.Except, r.id):
		case r.state == StateAvailable:
			fresh = append(fresh, r.id)
		case r.state == StateRetryable && r.due <= 0:
			due = append(due, r.id)
		case r.state == StateRetryable && r.due <= 5*time.Second:
			soon = append(soon, r.id)
		}
	}
	return fresh, due, soon
}

func (m *model) claim(w *worker) {
	c := m.newClaim()
	fresh, due, soon := m.claimable(c)
	jobs, more := w.claim(m.t, c)
	size, gotFresh := 0, 0
	for _, got := range jobs {
		size += len(got.Args)
		j := m.jobs[got.ID]
		if j == nil {
			m.t.Errorf("step %d: claimed %+v, which was not stored", m.step, got)
			continue
		}
		switch {
		case slices.Contains(fresh, j.id):
			gotFresh++
		case !slices.Contains(due, j.id) && !slices.Contains(soon, j.id):
			m.errorf(j, "%+v gave it, which is %s and not due", c, j.state)
		}
		m.claimed(w, j, c, got)
		w.held[j.id] = got
	}
	if len(jobs) > c.Limit || (len(jobs) > 1 && size > c.MaxBytes) {
		m.t.Errorf("step %d: %+v gave %d jobs of %d bytes", m.step, c, len(jobs), size)
	}
	if more && len(jobs) > 0 {
		// neither kind keeps the other from its half
		if half := c.Limit / 2; c.MaxBytes == 1<<20 && (gotFresh < min(half, len(fresh)) || len(jobs)-gotFresh < min(half, len(due))) {
			m.t.Errorf("step %d: %+v gave %d of %d fresh jobs, and %d of %d that were due", m.step, c, gotFresh, len(fresh), len(jobs)-gotFresh, len(due))
		}
	}
	if !more {
		for _, id := range slices.Concat(fresh, due) {
			if !slices.ContainsFunc(jobs, func(j Job) bool { return j.ID == id }) {
				m.errorf(m.jobs[id], "%+v gave %v and no more, without this one, which is %s", c, idsOf(jobs), m.jobs[id].state)
			}
		}
	}
}

// claimed notes a claim, which must have been allowed.
func (m *model) claimed(w *worker, j *modelJob, c Claim, got Job) {
	m.t.Helper()
	if j.state != StateAvailable && j.state != StateRetryable {
		m.errorf(j, "claimed while it was %s", j.state)
	}
	if j.queue != c.Queue || slices.Contains(c.Except, j.id) || got.Token != c.Token || got.Queue != j.queue || got.Attempt != j.attempt+1 {
		m.errorf(j, "%+v gave %+v", c, got)
	}
	if got.Args != nil && !strings.HasPrefix(strings.ReplaceAll(string(got.Args), " ", ""), fmt.Sprintf(`{"n":%d,`, j.args)) {
		m.errorf(j, "its arguments are %s", got.Args)
	}
	j.from, j.state, j.attempt = j.state, StateRunning, j.attempt+1
	j.claims = append(j.claims, w.holder(c.Token))
	j.note(m, "claimed by %s from %s", w.holder(c.Token), j.from)
}

// ----- finishing -----

// newOutcomes returns the outcomes of some claims, and of some that have ended.
func (m *model) newOutcomes(w *worker) (outcomes []Outcome) {
	for _, id := range slices.Sorted(maps.Keys(w.held)) {
		if m.r.IntN(2) == 0 {
			outcomes = append(outcomes, m.newOutcome(w.held[id]))
		}
	}
	for range m.r.IntN(3) {
		if len(w.past) > 0 {
			late := w.past[m.r.IntN(len(w.past))]
			if !slices.ContainsFunc(outcomes, func(o Outcome) bool { return o.ID == late.ID }) {
				outcomes = append(outcomes, m.newOutcome(late))
			}
		}
	}
	m.r.Shuffle(len(outcomes), func(i, k int) { outcomes[i], outcomes[k] = outcomes[k], outcomes[i] })
	return outcomes
}

func (m *model) newOutcome(j Job) Outcome {
	states := []State{StateCompleted, StateCompleted, StateRetryable, StateRetryable, StateRetryable, StateDiscarded, StateCancelled, StateAvailable}
	o := j.outcome(states[m.r.IntN(len(states))])
	if m.r.IntN(2) == 0 {
		o.Delay = time.Hour
	}
	return o
}

// counts reports whether an outcome must have an effect.
func (m *model) counts(w *worker, o Outcome) bool {
	j := m.jobs[o.ID]
	return j != nil && j.state == StateRunning && len(j.claims) > 0 && j.claims[len(j.claims)-1] == w.holder(o.Token)
}

// ended notes an outcome that counts.
func (m *model) ended(w *worker, o Outcome) {
	j := m.jobs[o.ID]
	if o.State == StateAvailable {
		j.release(m, "released")
	} else {
		j.end(o.State)
		j.note(m, "%s by %s#%d", j.state, w.Instance(), o.Token)
	}
	if o.Error != nil {
		j.errors++
	}
}

// forget ends claims in the memory of the process.
func (w *worker) forget(outcomes []Outcome) {
	for _, o := range outcomes {
		if held, ok := w.held[o.ID]; ok && held.Token == o.Token {
			w.past = append(w.past, held)
			delete(w.held, o.ID)
		}
	}
}

func (m *model) finish(w *worker) {
	outcomes := m.newOutcomes(w)
	m.applied(w, outcomes, w.finish(m.t, outcomes...))
}

func (m *model) applied(w *worker, outcomes []Outcome, applied []int64) {
	m.t.Helper()
	for _, o := range outcomes {
		if got, want := slices.Contains(applied, o.ID), m.counts(w, o); got != want && m.jobs[o.ID] != nil {
			m.errorf(m.jobs[o.ID], "%+v applied: %t, want %t", o, got, want)
		}
		if m.counts(w, o) {
			m.ended(w, o)
		}
	}
	if len(applied) > len(outcomes) {
		m.t.Errorf("step %d: %d of %d outcomes were applied", m.step, len(applied), len(outcomes))
	}
	w.forget(outcomes)
}

// checkRunning compares what the database says of a process with its memory, and releases
// what it does not hold, as after a lost reply.
func (m *model) checkRunning(w *worker) {
	running, err := w.OwnRunning(m.t.Context())
	if err != nil {
		m.t.Fatalf("step %d: %v", m.step, err)
	}
	found := make(map[int64]bool)
	var lost []Outcome
	for _, r := range running {
		found[r.ID] = true
		j := m.jobs[r.ID]
		if j == nil || j.state != StateRunning || j.claims[len(j.claims)-1] != w.holder(r.Token) {
			m.t.Errorf("step %d: %+v is said to run", m.step, r)
			continue
		}
		if (j.cancelRequested && !r.CancelRequested) || (r.CancelRequested && !j.everCancelled) {
			m.errorf(j, "a person asked for its end: %t, want %t", r.CancelRequested, j.cancelRequested)
		}
		if held, ok := w.held[r.ID]; !ok || held.Token != r.Token {
			lost = append(lost, Outcome{ID: r.ID, Token: r.Token, State: StateAvailable})
		}
	}
	for _, j := range m.sorted() {
		if j.state == StateRunning && strings.HasPrefix(j.claims[len(j.claims)-1], w.Instance()+"#") && !found[j.id] {
			m.errorf(j, "it runs, but OwnRunning does not say so")
		}
	}
	if len(lost) > 0 {
		m.applied(w, lost, w.finish(m.t, lost...))
	}
}

// ----- persons -----

func (m *model) sorted() []*modelJob {
	return slices.SortedFunc(maps.Values(m.jobs), func(a, b *modelJob) int { return int(a.id - b.id) })
}

func (m *model) interfere(w *worker) {
	all := m.sorted()
	if len(all) == 0 {
		return
	}
	j := all[m.r.IntN(len(all))]
	switch m.r.IntN(4) {
	case 0, 1:
		if err := w.person.retry(j.id); err != nil {
			m.errorf(j, "retrying it: %v", err)
		}
		if j.state != StateRunning {
			j.state = StateAvailable
		}
		j.note(m, "retried by a person")
	case 2:
		if err := w.person.cancel(j.id); err != nil {
			m.errorf(j, "cancelling it: %v", err)
		}
		if j.everCancelled = j.everCancelled || j.state.Unfinished(); j.state == StateRunning {
			j.cancelRequested = true
		} else if j.state.Unfinished() {
			j.state = StateCancelled
		}
		j.note(m, "cancelled by a person")
	case 3:
		err := w.person.delete(j.id)
		if (err != nil) != (j.state == StateRunning) || (err != nil && !errors.Is(err, rivertype.ErrJobRunning) && !errors.Is(err, errRefused) && !errors.Is(err, errStillThere)) {
			m.errorf(j, "deleting it while it is %s: %v", j.state, err)
		}
		if errors.Is(err, errStillThere) {
			j.cancelRequested, j.everCancelled = true, true
			j.note(m, "asked to end, to be deleted")
		}
		if err == nil {
			m.deleted(j)
		}
	}
}

func (m *model) deleted(j *modelJob) {
	delete(m.jobs, j.id)
	if m.keys[j.key] == j.id {
		delete(m.keys, j.key)
	}
}

// ----- faults -----

// kill ends a process, and starts another one.
func (m *model) kill(w *worker) {
	m.dead[w.Instance()] = true
	m.workers = slices.DeleteFunc(m.workers, func(other *worker) bool { return other == w })
	w.die()
	m.join()
	if !m.e.shared { // or else it takes half a minute
		m.rescued()
	}
}

// rescued notes what must have been released by now.
func (m *model) rescued() {
	for _, j := range m.sorted() {
		if j.state != StateRunning {
			continue
		}
		name, _, _ := strings.Cut(j.claims[len(j.claims)-1], "#")
		if m.dead[name] {
			j.release(m, "rescued from "+name)
		}
	}
}

// rescue must leave alone what live processes hold. What it rescues of dead ones is
// noted: when that is, depends on the time.
func (m *model) rescue(w *worker) {
	n, err := w.Rescue(m.t.Context())
	if err != nil {
		m.t.Fatalf("step %d: rescuing: %v", m.step, err)
	}
	for _, r := range m.d.rows(m.t) {
		j := m.jobs[r.id]
		if j == nil || j.state != StateRunning || r.state == StateRunning {
			continue
		}
		if name, _, _ := strings.Cut(j.claims[len(j.claims)-1], "#"); !m.dead[name] {
			m.errorf(j, "it was rescued from %s, which lives", name)
		}
		j.release(m, "rescued")
		n--
	}
	if n != 0 {
		m.t.Errorf("step %d: the number of what was rescued is wrong by %d", m.step, n)
	}
}

// stepClock moves all times, as if the database's clock had been set.
func (m *model) stepClock(*worker) {
	by := []time.Duration{3 * time.Hour, -3 * time.Hour, 20 * time.Second, -20 * time.Second}[m.r.IntN(4)]
	m.d.shift(m.t, by, "true", "created_at", "scheduled_at", "attempted_at", "finalized_at")
	for _, j := range m.sorted() {
		j.note(m, "the clock stepped by %s", -by)
	}
}

func (m *model) reclock(w *worker) {
	before := m.d.rows(m.t)
	n, err := w.Reclock(m.t.Context())
	if err != nil {
		m.t.Fatalf("step %d: reclocking: %v", m.step, err)
	}
	for k, r := range m.d.rows(m.t) {
		if r.due > before[k].due+time.Second || (r.due < before[k].due-10*time.Second && r.state != StateRetryable) {
			m.errorf(m.jobs[r.id], "it was due in %s, and is due in %s", before[k].due, r.due)
		}
		if r.due < before[k].due-10*time.Second {
			n--
		}
	}
	if n < 0 {
		m.t.Errorf("step %d: %d more were changed than it says", m.step, -n)
	}
}

func (m *model) expire(w *worker) {
	limit := 1 + m.r.IntN(5)
	before := len(m.jobs)
	n, err := w.Expire(m.t.Context(), Expiry{Queues: modelQueues[:1], KeepCompleted: time.Hour, KeepDead: 2 * time.Hour, Limit: limit})
	if err != nil {
		m.t.Fatalf("step %d: expiring: %v", m.step, err)
	}
	exists := make(map[int64]bool)
	for _, r := range m.d.rows(m.t) {
		exists[r.id] = true
	}
	for _, j := range m.sorted() {
		if exists[j.id] {
			continue
		}
		if j.state.Unfinished() || j.queue != modelQueues[0] {
			m.errorf(j, "it expired while it was %s", j.state)
		}
		m.deleted(j)
	}
	if got := before - len(m.jobs); int64(got) != n || got > limit {
		m.t.Errorf("step %d: %d expired, said to be %d, of at most %d", m.step, got, n, limit)
	}
}

// loseReply does something whose reply is lost. The database has done it.
func (m *model) loseReply(w *worker) {
	switch m.r.IntN(3) {
	case 0:
		jobs := slices.DeleteFunc(m.newBatch(), func(j *NewJob) bool {
			j.With = slices.DeleteFunc(j.With, refused)
			return refused(j)
		})
		if len(jobs) == 0 {
			return
		}
		w.lose()
		_, err := w.Store(m.t.Context(), func() []*NewJob { return jobs })
		w.heal()
		m.wantLost(err)
		m.adopt(w, jobs)
	case 1:
		c := m.newClaim()
		c.MaxBytes = 1 << 20
		fresh, due, _ := m.claimable(c)
		if len(fresh)+len(due) == 0 {
			return
		}
		w.lose()
		_, _, err := w.Claim(m.t.Context(), c)
		w.heal()
		m.wantLost(err)
		for _, r := range m.d.rows(m.t) {
			if j := m.jobs[r.id]; r.state == StateRunning && r.holder() == w.holder(c.Token) {
				m.claimed(w, j, c, Job{ID: j.id, Token: c.Token, Queue: r.queue, Attempt: r.attempt})
			}
		}
	case 2:
		outcomes := m.newOutcomes(w)
		if !slices.ContainsFunc(outcomes, func(o Outcome) bool { return m.counts(w, o) }) {
			return
		}
		w.lose()
		_, err := w.Finish(m.t.Context(), outcomes)
		w.heal()
		m.wantLost(err)
		// some statements may have been run, and the others not
		for _, o := range outcomes {
			if m.counts(w, o) && find(m.t, m.d, o.ID).state != StateRunning {
				m.ended(w, o)
			}
		}
		m.applied(w, outcomes, w.finish(m.t, outcomes...)) // the worker tries again
	}
}

func (m *model) wantLost(err error) {
	m.t.Helper()
	if err == nil {
		m.t.Errorf("step %d: no error, although the reply was lost", m.step)
	}
}

// adopt notes what a store did whose reply was lost.
func (m *model) adopt(w *worker, jobs []*NewJob) {
	added := make(map[*NewJob]bool)
	for _, r := range m.d.rows(m.t) {
		if m.jobs[r.id] != nil {
			continue
		}
		j := m.among(jobs, r)
		if j == nil {
			m.t.Errorf("step %d: nobody stored %+v", m.step, r)
			continue
		}
		added[j] = true
		m.add(w, r.id, j).note(m, "the reply was lost")
	}
	for _, j := range jobs {
		if j.UniqueKey != nil && m.keys[string(j.UniqueKey)] == 0 {
			m.t.Errorf("step %d: a store whose reply was lost had no effect", m.step)
		}
		for _, other := range j.With {
			if added[other] != added[j] {
				m.t.Errorf("step %d: a job was stored: %t, and one that is with it: %t", m.step, added[j], added[other])
			}
		}
	}
}

// among returns the job that has become the row, or nil.
func (m *model) among(jobs []*NewJob, r row) *NewJob {
	for _, j := range jobs {
		for _, one := range append([]*NewJob{j}, j.With...) {
			if sameJSON(m.t, one.Args, []byte(r.args)) {
				return one
			}
		}
	}
	return nil
}

// tick lets five seconds pass, in which all live processes beat on time.
func (m *model) tick(*worker) {
	for range 1 + m.r.IntN(9) {
		passTime(5 * time.Second)
		for _, w := range m.workers {
			m.beat(w)
		}
		m.rescue(m.workers[m.r.IntN(len(m.workers))])
	}
}

// stall lets a minute pass in which the database could not be reached.
func (m *model) stall(*worker) {
	passTime(time.Minute)
	for _, n := range m.r.Perm(len(m.workers)) {
		m.beat(m.workers[n])
		m.rescue(m.workers[n])
	}
}

// ----- checks -----

// check compares all rows with the model.
func (m *model) check() {
	m.t.Helper()
	seen := make(map[int64]bool)
	for _, r := range m.d.rows(m.t) {
		seen[r.id] = true
		j := m.jobs[r.id]
		if j == nil {
			m.t.Errorf("step %d: nobody stored %+v", m.step, r)
			continue
		}
		if r.state != j.state || r.attempt != j.attempt || r.errors != j.errors || r.queue != j.queue || r.kind != testKind ||
			r.finalized == r.state.Unfinished() || r.key != fmt.Sprintf("%x", j.key) || !slices.Equal(r.attemptedBy, j.claims) {
			m.errorf(j, "it is %+v, want %s after %d attempts with %d errors, claimed by %q", r, j.state, j.attempt, j.errors, j.claims)
		}
	}
	for _, j := range m.sorted() {
		if !seen[j.id] {
			m.errorf(j, "it is lost, and was %s", j.state)
		}
	}
}

// finishAll delivers all that is there, after which nothing may be left.
func (m *model) finishAll() {
	w := m.workers[0]
	for range 12 { // until the processes that ended are gone
		m.checkRunning(w)
		var outcomes []Outcome
		for _, other := range m.workers {
			for _, held := range other.held {
				outcomes = append(outcomes, held.outcome(StateCompleted))
			}
			m.applied(other, outcomes, other.finish(m.t, outcomes...))
			outcomes = nil
			m.checkRunning(other)
			m.beat(other)
		}
		m.rescue(w)
		passTime(5 * time.Second)
	}
	m.d.shift(m.t, -24*time.Hour, "true", "created_at", "scheduled_at", "attempted_at")
	for range 100 {
		done := true
		for _, queue := range modelQueues {
			c := Claim{Queue: queue, Token: newToken(), Limit: 50, MaxBytes: 1 << 20}
			jobs, more := w.claim(m.t, c)
			var outcomes []Outcome
			for _, j := range jobs {
				m.claimed(w, m.jobs[j.ID], c, j)
				w.held[j.ID] = j
				outcomes = append(outcomes, j.outcome(StateCompleted))
			}
			m.applied(w, outcomes, w.finish(m.t, outcomes...))
			done = done && !more
		}
		m.check()
		if done {
			break
		}
	}
	client := m.d.client(m.t)
	for _, j := range m.sorted() {
		if j.state.Unfinished() {
			m.errorf(j, "it is %s although all was delivered", j.state)
		}
		if read, err := client.JobGet(m.t.Context(), j.id); err != nil || State(read.State) != j.state || len(read.Errors) != j.errors {
			m.errorf(j, "River's client reads %+v (%v)", read, err)
		}
	}
}

// passedTime is how much time has passed for the liveness of instances, beside that which
// really has.
var passedTime atomic.Int64

func passTime(by time.Duration) { passedTime.Add(int64(by)) }
