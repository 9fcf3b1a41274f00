package queue

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/jobdb"
)

// deadGroup is what the dead letters of a group have in common.
type deadGroup struct {
	Queue  string `json:"queue"` // the River queue
	Topic  string `json:"topic"`
	Reason string `json:"reason"` // the last error; empty if there was none
}

// groupCount is how many dead letters a group has, and when the first and the last of them
// were stored.
type groupCount struct {
	deadGroup
	Jobs           int64
	Oldest, Newest time.Time
	NewestJob      int64
}

// deadSurvey is what surveyDead has found.
type deadSurvey struct {
	Groups []groupCount // the largest first
	Jobs   int64        // in Groups
	Others int64        // in further groups
	Older  int64        // the id from which to go on with older ones; 0: there are none
}

const (
	surveyTime = 4 * time.Second // about how long a survey may take
	maxGroups  = 200

	// The longest texts of a group, in bytes.
	maxGroupTopic  = 300
	maxGroupReason = 1000
)

var deadStates = defaultStates[verbRetry]

// surveyDead groups dead letters, from the newest to older ones, from an id on; 0 is the
// newest. Memory and time are bounded: there may be more groups, and older dead letters.
func (d *dispatcher) surveyDead(ctx context.Context, from int64) (deadSurvey, error) {
	var survey deadSurvey
	groups := make(map[deadGroup]*groupCount)
	selected := selection{filter: jobdb.Filter{States: deadStates}}
	for end := time.Now().Add(surveyTime); ; {
		began := time.Now()
		found, next, err := d.search(ctx, selected, jobdb.Page{From: from, Limit: searchAtOnce, Newest: true}, hasTopic)
		if err != nil {
			return survey, err
		}
		for i := range found {
			of := groupOf(&found[i])
			group := groups[of]
			if group == nil && len(groups) == maxGroups {
				survey.Others++
				continue
			}
			if group == nil {
				group = &groupCount{deadGroup: of, Newest: found[i].StoredAt, NewestJob: found[i].ID}
				groups[of] = group
			}
			group.Jobs++
			group.Oldest = found[i].StoredAt
			survey.Jobs++
		}
		if from = next; from == 0 || time.Now().After(end) {
			break
		}
		if err := sleep(ctx, time.Since(began)); err != nil {
			return survey, err
		}
	}
	survey.Older = from
	for _, group := range groups {
		survey.Groups = append(survey.Groups, *group)
	}
	slices.SortFunc(survey.Groups, func(a, b groupCount) int {
		return cmp.Or(cmp.Compare(b.Jobs, a.Jobs), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Queue, b.Queue))
	})
	return survey, nil
}

func groupOf(job *foundJob) deadGroup {
	return deadGroup{job.Queue, clip(job.topic, maxGroupTopic), groupReason(&job.Record)}
}

// ownAddress is this end of a connection in an error of package net. It has a port that is
// another one each time.
var ownAddress = regexp.MustCompile(`[^\s>]+->`)

// groupReason returns the last error of a job, without what is different each time.
func groupReason(record *jobdb.Record) string {
	n := len(record.Errors)
	if n == 0 {
		return ""
	}
	return clip(ownAddress.ReplaceAllLiteralString(viewAttempt(record.Errors[n-1]).Error, ""), maxGroupReason)
}

// clip returns the beginning of a text, with so many bytes at most.
func clip(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

// kinds returns the kinds that jobs of the group can have.
func (g *deadGroup) kinds() []string {
	return []string{g.Topic, intercom.OtherTopics, firstVersionKind}
}

// String returns a form that a web page can give back, whatever characters are in the group.
func (g deadGroup) String() string {
	text, err := json.Marshal(g)
	if err != nil { // cannot happen with strings
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

var errGroup = errors.New("the group of dead letters is malformed: go back to the list, and choose one there")

// parseGroup is the reverse of String.
func parseGroup(text string) (*deadGroup, error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errGroup
	}
	group := new(deadGroup)
	if err := json.Unmarshal(decoded, group); err != nil || group.Queue == "" {
		return nil, errGroup
	}
	return group, nil
}
