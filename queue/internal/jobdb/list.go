package jobdb

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

const (
	// listRows is how many rows a call of List looks at, at most.
	listRows = 2000

	// listSparse is the number of jobs in the wanted states and queues up to which List
	// takes all their ids from the index and sorts them. If there are more, it goes along
	// the ids of all jobs: most of them are wanted, or the list is long anyway.
	listSparse = 200_000

	// listBytes and listBatch bound the memory for args.
	listBytes = 4 << 20
	listBatch = 50
)

// lister is what an engine does for List.
type lister interface {
	// sparse reports whether no more than listSparse jobs are in the states and queues.
	sparse(ctx context.Context, filter Filter) (bool, error)

	// walk returns the ids of jobs, in the order of the page. Only the filter's states and
	// queues count, and if it has none of them, the ids come from the table itself.
	walk(ctx context.Context, filter Filter, page Page, limit int) ([]int64, error)

	// records reads jobs without args, in any order. The filter may save reading others.
	records(ctx context.Context, filter Filter, ids []int64, allErrors bool) ([]Record, error)

	// args reads the args of jobs.
	args(ctx context.Context, ids []int64) (map[int64][]byte, error)
}

func list(ctx context.Context, l lister, filter Filter, page Page) (found []Record, next int64, err error) {
	ids, next, err := candidates(ctx, l, filter, page)
	if err != nil || len(ids) == 0 {
		return nil, 0, err
	}
	if found, err = l.records(ctx, filter, ids, page.Errors); err != nil {
		return nil, 0, err
	}
	found = slices.DeleteFunc(found, func(r Record) bool { return !filter.fits(r) })
	slices.SortFunc(found, func(a, b Record) int { return page.compare(a.ID, b.ID) })
	if len(found) > page.Limit {
		found, next = found[:page.Limit], found[page.Limit].ID
	}
	if !page.Args {
		return found, next, nil
	}
	return withArgs(ctx, l, found, next)
}

// candidates returns ids of jobs that the filter may select, and the id that comes next.
func candidates(ctx context.Context, l lister, filter Filter, page Page) (ids []int64, next int64, err error) {
	limit := listRows
	if filter.IDs != nil {
		ids = slices.DeleteFunc(slices.Clone(filter.IDs), func(id int64) bool {
			return page.From != 0 && page.compare(id, page.From) < 0
		})
		slices.SortFunc(ids, page.compare)
		ids = slices.Compact(ids)
	} else {
		var byIndex Filter
		if len(filter.States)+len(filter.Queues) > 0 {
			sparse, err := l.sparse(ctx, filter)
			if err != nil {
				return nil, 0, err
			}
			if sparse {
				byIndex.States, byIndex.Queues = filter.States, filter.Queues
				filter.States, filter.Queues = nil, nil
			}
		}
		if filter.all() {
			limit = min(limit, page.Limit)
		}
		if ids, err = l.walk(ctx, byIndex, page, limit+1); err != nil {
			return nil, 0, err
		}
	}
	if len(ids) > limit {
		ids, next = ids[:limit], ids[limit]
	}
	return ids, next, nil
}

// withArgs adds args to as many records as may be in memory.
func withArgs(ctx context.Context, l lister, found []Record, next int64) ([]Record, int64, error) {
	size := 0
	for i, r := range found {
		if i%listBatch == 0 {
			if size > listBytes {
				return found[:i], r.ID, nil
			}
			batch := found[i:min(i+listBatch, len(found))]
			ids := make([]int64, len(batch))
			for k := range batch {
				ids[k] = batch[k].ID
			}
			args, err := l.args(ctx, ids)
			if err != nil {
				return nil, 0, err
			}
			for k := range batch {
				if text := args[batch[k].ID]; json.Valid(text) {
					batch[k].Args = text
					size += len(text)
				}
			}
		}
	}
	return found, next, nil
}

// compare orders ids as the page does.
func (p Page) compare(a, b int64) int {
	order := 0
	switch {
	case a < b:
		order = -1
	case a > b:
		order = 1
	}
	if p.Newest {
		return -order
	}
	return order
}

// all reports whether the filter selects every job.
func (f Filter) all() bool {
	return len(f.IDs)+len(f.States)+len(f.Queues)+len(f.Kinds) == 0 && f.Workspace == "" && f.Notification == "" &&
		f.Since.IsZero() && f.Until.IsZero() && f.Error == ""
}

// fits reports whether the filter selects a job. The IDs do not count.
func (f Filter) fits(r Record) bool {
	return (len(f.States) == 0 || slices.Contains(f.States, r.State)) &&
		(len(f.Queues) == 0 || slices.Contains(f.Queues, r.Queue)) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, r.Kind)) &&
		(f.Workspace == "" || slices.Contains(r.Tags, f.Workspace)) &&
		(f.Notification == "" || slices.Contains(r.Tags, f.Notification)) &&
		(f.Since.IsZero() || !r.StoredAt.Before(f.Since)) &&
		(f.Until.IsZero() || r.StoredAt.Before(f.Until)) &&
		(f.Error == "" || strings.Contains(strings.ToLower(r.lastError()), strings.ToLower(f.Error)))
}

// times returns the places of the times, in the order of the fields.
func (r *Record) times() [4]*time.Time {
	return [4]*time.Time{&r.StoredAt, &r.DueAt, &r.AttemptedAt, &r.FinalizedAt}
}

func (r *Record) lastError() string {
	var last struct {
		Error string `json:"error"`
	}
	if len(r.Errors) > 0 && json.Unmarshal(r.Errors[len(r.Errors)-1], &last) != nil {
		return ""
	}
	return last.Error
}

// tags returns the tags of wanted jobs.
func (f Filter) tags() []string {
	tags := []string{}
	for _, tag := range []string{f.Workspace, f.Notification} {
		if tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// jsonTexts reads the texts of a JSON array, and leaves all else out.
func jsonTexts(array []byte) (texts []string) {
	var values []any
	if json.Unmarshal(array, &values) != nil {
		return nil
	}
	for _, value := range values {
		if text, ok := value.(string); ok {
			texts = append(texts, text)
		}
	}
	return texts
}

// jsonObjects reads the objects of a JSON array, and leaves all else out.
func jsonObjects[T ~[]byte](array []byte) (objects []T) {
	var values []json.RawMessage
	if json.Unmarshal(array, &values) != nil {
		return nil
	}
	for _, value := range values {
		if bytes.HasPrefix(value, []byte("{")) {
			objects = append(objects, T(value))
		}
	}
	return objects
}

// unixTime returns a time of seconds, with the milliseconds that SQLite knows.
func unixTime(seconds float64) time.Time {
	return time.UnixMilli(int64(seconds*1000 + 0.5)).UTC()
}
