package queue

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/topicpattern"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

const (
	// listTimeout bounds one look at the database.
	listTimeout = 10 * time.Second

	// argsAtOnce bounds how many notifications are read at once with their bodies.
	argsAtOnce = 8

	// firstVersionKind is the kind of all jobs of the first version.
	firstVersionKind = "intercom_notification"
)

// labels are what people search jobs by.
type labels struct{ topic, workspace, notification string }

// foundJob is a job that a selection has found.
type foundJob struct {
	jobdb.Record
	labels
}

func (n *notification) labels() labels { return labels{n.Topic, n.AppID, n.ID} }

// labelsOf returns what the kind and the tags of a job say.
func labelsOf(record *jobdb.Record) labels {
	l := labels{topic: record.Kind}
	if len(record.Tags) == 2 {
		l.workspace, l.notification = record.Tags[0], record.Tags[1]
	}
	return l
}

// hasTopic reports whether the kind of a job is its topic.
func hasTopic(record *jobdb.Record) bool { return intercom.IsKnown(record.Kind) }

// fits reports whether a job has the labels that the selection asks for. The database does
// not know which of a job's tags is the workspace, and which the notification.
func (s *selection) fits(job *foundJob) bool {
	switch {
	case s.filter.Workspace != "" && job.workspace != s.filter.Workspace,
		s.filter.Notification != "" && job.notification != s.filter.Notification:
		return false
	case s.group != nil:
		return groupOf(job) == *s.group
	default:
		return s.topic == "" || topicpattern.Matches(s.topic, job.topic)
	}
}

// hasLabels reports whether the kind and the tags of a job have all its labels.
func hasLabels(record *jobdb.Record) bool { return hasTopic(record) && len(record.Tags) == 2 }

// list is List of the database, with a time limit. Whoever calls it in a loop must pause as
// long as it took, so that storing gets the processors.
func (d *dispatcher) list(ctx context.Context, filter jobdb.Filter, page jobdb.Page) ([]jobdb.Record, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return d.db.List(ctx, filter, page)
}

// eachRecord calls do for each job that a filter selects.
func (d *dispatcher) eachRecord(ctx context.Context, filter jobdb.Filter, page jobdb.Page, do func(*jobdb.Record)) error {
	for {
		began := time.Now()
		records, next, err := d.list(ctx, filter, page)
		if err != nil {
			return err
		}
		for i := range records {
			do(&records[i])
		}
		if next == 0 {
			return nil
		}
		page.From = next
		if err := sleep(ctx, time.Since(began)); err != nil {
			return err
		}
	}
}

// search looks at a bounded number of jobs. It returns the selected ones among them, and the
// id from which to go on; 0 after the last one. It reads the arguments of a job only if the
// job is selected by its topic and has none as its kind, or by a tag and does not have both,
// or if enough says that the kind and the tags are not enough.
func (d *dispatcher) search(ctx context.Context, s selection, page jobdb.Page, enough func(*jobdb.Record) bool) (found []foundJob, next int64, err error) {
	filter := s.filter
	filter.Kinds = kindsOf(s.topic)
	if s.group != nil {
		filter.Queues, filter.Kinds = []string{s.group.Queue}, s.group.kinds()
	}
	records, next, err := d.list(ctx, filter, page)
	if err != nil {
		return nil, 0, err
	}
	if s.group != nil { // before arguments are read
		records = slices.DeleteFunc(records, func(record jobdb.Record) bool { return groupReason(&record) != s.group.Reason })
	}
	byTag := filter.Workspace != "" || filter.Notification != ""
	var ids []int64
	for i := range records {
		record := &records[i]
		found = append(found, foundJob{*record, labelsOf(record)})
		if !enough(record) || filter.Kinds != nil && !hasTopic(record) || byTag && len(record.Tags) != 2 {
			ids = append(ids, record.ID)
		}
	}
	stored, err := d.storedLabels(ctx, ids)
	if err != nil {
		return nil, 0, err
	}
	for i := range found {
		if l, ok := stored[found[i].ID]; ok {
			found[i].labels = l
		}
	}
	return slices.DeleteFunc(found, func(job foundJob) bool { return !s.fits(&job) }), next, nil
}

// kindsOf returns the kinds that jobs with a topic of the pattern can have; nil for all.
func kindsOf(pattern string) []string {
	if pattern == "" || pattern == "*" {
		return nil
	}
	kinds := []string{intercom.OtherTopics, firstVersionKind}
	for _, topic := range intercom.Topics() {
		if topicpattern.Matches(pattern, topic) {
			kinds = append(kinds, topic)
		}
	}
	return kinds
}

// storedLabels reads the labels of jobs from their arguments, by the id of the job. It leaves
// out jobs that are gone or unreadable.
func (d *dispatcher) storedLabels(ctx context.Context, ids []int64) (map[int64]labels, error) {
	all := make(map[int64]labels)
	for some := range slices.Chunk(ids, argsAtOnce) {
		err := d.eachRecord(ctx, jobdb.Filter{IDs: some}, jobdb.Page{Limit: argsAtOnce, Args: true}, func(record *jobdb.Record) {
			if note, err := decodeNotification(record.Args); err == nil {
				all[record.ID] = note.labels()
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// listJobs calls do with the selected jobs, the newest first, as it finds them. It returns
// where to go on if there may be more, also after an error.
func (d *dispatcher) listJobs(ctx context.Context, s selection, do func([]jobSummary)) (more cursor, err error) {
	at := s.cursor
	for left := s.limit; left > 0; {
		began := time.Now()
		found, next, err := d.search(ctx, s, jobdb.Page{From: at.from, Limit: left, Newest: true}, hasLabels)
		if err != nil {
			return at, err
		}
		summaries := make([]jobSummary, len(found))
		for i := range found {
			summaries[i] = summarize(&found[i].Record, found[i].labels)
		}
		do(summaries)
		left -= len(found)
		if at.from = next; next == 0 {
			break
		}
		if err := sleep(ctx, time.Since(began)); err != nil {
			return at, err
		}
	}
	return at, nil
}

// findJobs calls do with each job that has the id, or whose notification has it, with
// everything that is known of it.
func (d *dispatcher) findJobs(ctx context.Context, queues []string, id string, do func(jobDetails)) error {
	seen := make(map[int64]bool)
	for _, filter := range filtersFor(id) {
		filter.Queues = queues
		err := d.eachRecord(ctx, filter, jobdb.Page{Limit: argsAtOnce, Args: true, Errors: true}, func(record *jobdb.Record) {
			job := detail(record)
			if !seen[record.ID] && (filter.Notification == "" || job.Notification == id) {
				seen[record.ID] = true
				do(job)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// filtersFor returns the filters for an id that is that of a job, or of a notification.
func filtersFor(id string) []jobdb.Filter {
	filters := []jobdb.Filter{{Notification: id}}
	if job, err := strconv.ParseInt(id, 10, 64); err == nil && job > 0 {
		filters = append(filters, jobdb.Filter{IDs: []int64{job}})
	}
	return filters
}
