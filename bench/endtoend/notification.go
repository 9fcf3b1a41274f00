package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

const (
	secret   = "bench"
	bodySize = 4 << 10
)

// usualWorkspace is that of all notifications, except those of other workspaces, whose names
// have the same length.
const usualWorkspace = "exmpl123"

func otherWorkspace(n uint64) string { return fmt.Sprintf("other%03d", n) }

// objects is how many conversations the notifications are about.
const objects = 1000

// The body of a notification is head, its workspace, begin, its conversation, middle, its id, and
// tail. It has the shape of Intercom's.
var head, begin, middle, tail = func() (string, string, string, string) {
	const head = `{"type":"notification_event","app_id":"`
	const begin = `","data":{"type":"notification_event_data","item":{"type":"conversation","id":"30174412009`
	const parts = `","conversation_parts":[`
	const part = `{"type":"conversation_part","id":"40117733902","part_type":"comment","body":"<p>Could you also send me the invoice?</p>","created_at":1773244812,"assigned_to":null,"author":{"type":"user","id":"68a1c1f29e07d4003b5f1c20","name":"Zoe"}},`
	const last = `{}]}},"links":{},"id":"`
	const end = `","topic":"conversation.user.replied","delivery_status":"pending","delivery_attempts":1,"delivered_at":0,"first_sent_at":1773244813,"created_at":1773244813,"self":null}`
	room := bodySize - len(head) - len(usualWorkspace) - len(begin) - len("0518") - len(parts) - len(last) - len(newID(time.Now(), 0)) - len(end)
	tail := end + strings.Repeat(" ", room%len(part))
	return head, begin, parts + strings.Repeat(part, room/len(part)) + last, tail
}()

// newID returns an id of always the same length that tells when the notification was
// due to be sent.
func newID(due time.Time, n uint64) string {
	return fmt.Sprintf("notif_%019d_%012d", due.UnixNano(), n)
}

// dueAt returns when the notification with an id was due to be sent.
func dueAt(id string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(id, "notif_")
	nanoseconds, _, found := strings.Cut(rest, "_")
	n, err := strconv.ParseInt(nanoseconds, 10, 64)
	return time.Unix(0, n), ok && found && err == nil
}

// newTarget returns a new notification to be sent to a URL, signed as Intercom does.
func newTarget(url, workspace string, n uint64, id string) vegeta.Target {
	body := []byte(head + workspace + begin + fmt.Sprintf("%04d", n%objects) + middle + id + tail)
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write(body)
	return vegeta.Target{Method: http.MethodPost, URL: url, Body: body, Header: http.Header{
		"Accept":                   {"application/json"},
		"Content-Type":             {"application/json"},
		"Intercom-Webhook-Version": {"2.14"},
		"User-Agent":               {"intercom-parrot-service-client/1.0"},
		"X-Hub-Signature":          {"sha1=" + hex.EncodeToString(mac.Sum(nil))},
	}}
}
