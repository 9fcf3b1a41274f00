package main

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	secret   = "bench"
	bodySize = 4 << 10
)

// usualWorkspace is that of all notifications, except those of other workspaces, whose names
// have the same length.
const usualWorkspace = "exmpl123"

func otherWorkspace(n int64) string { return fmt.Sprintf("other%03d", n) }

// The body of a notification is head, its workspace, middle, its id, and tail. It has the
// shape of Intercom's.
var head, middle, tail = func() (string, string, string) {
	const head = `{"type":"notification_event","app_id":"`
	const begin = `","data":{"type":"notification_event_data","item":{"type":"conversation","id":"301744120095518","conversation_parts":[`
	const part = `{"type":"conversation_part","id":"40117733902","part_type":"comment","body":"<p>Could you also send me the invoice?</p>","created_at":1773244812,"assigned_to":null,"author":{"type":"user","id":"68a1c1f29e07d4003b5f1c20","name":"Zoe"}},`
	const last = `{}]}},"links":{},"id":"`
	const end = `","topic":"conversation.user.replied","delivery_status":"pending","delivery_attempts":1,"delivered_at":0,"first_sent_at":1773244813,"created_at":1773244813,"self":null}`
	room := bodySize - len(head) - len(usualWorkspace) - len(begin) - len(last) - len(newID(time.Now(), 0)) - len(end)
	tail := end + strings.Repeat(" ", room%len(part))
	return head, begin + strings.Repeat(part, room/len(part)) + last, tail
}()

// newID returns an id of always the same length that tells when the notification was
// sent.
func newID(sent time.Time, n int64) string {
	return fmt.Sprintf("notif_%019d_%012d", sent.UnixNano(), n)
}

// sentAt returns when the notification with an id was sent.
func sentAt(id string) (time.Time, bool) {
	rest, ok := strings.CutPrefix(id, "notif_")
	nanoseconds, _, found := strings.Cut(rest, "_")
	n, err := strconv.ParseInt(nanoseconds, 10, 64)
	return time.Unix(0, n), ok && found && err == nil
}

// appendRequest appends a whole request with a new notification, signed as Intercom does.
func appendRequest(buffer []byte, path, workspace, id string) []byte {
	mac := hmac.New(sha1.New, []byte(secret))
	for _, part := range []string{head, workspace, middle, id, tail} {
		mac.Write([]byte(part))
	}
	buffer = fmt.Appendf(buffer, "POST %s HTTP/1.1\r\nHost: bench.example\r\n"+
		"Accept: application/json\r\nContent-Type: application/json\r\nIntercom-Webhook-Version: 2.14\r\n"+
		"User-Agent: intercom-parrot-service-client/1.0\r\nX-Hub-Signature: sha1=%s\r\nContent-Length: %d\r\n\r\n",
		path, hex.EncodeToString(mac.Sum(nil)), bodySize)
	for _, part := range []string{head, workspace, middle, id, tail} {
		buffer = append(buffer, part...)
	}
	return buffer
}
