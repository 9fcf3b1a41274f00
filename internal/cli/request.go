package cli

import (
	"net/http"
	"time"
)

// notificationRequest is the request of a notification, as the admin endpoint describes it.
type notificationRequest struct {
	Method     string      `json:"method"`
	URI        string      `json:"uri"`
	Proto      string      `json:"proto"`
	Host       string      `json:"host"`
	RemoteAddr string      `json:"remote_addr"`
	ClientIP   string      `json:"client_ip"` // in the stream only
	ReceivedAt time.Time   `json:"received_at"`
	Header     http.Header `json:"header"`
	Body       string      `json:"body"`
	BodyBase64 []byte      `json:"body_base64"` // in place of the body if it is not text
}

func (r *notificationRequest) body() []byte {
	if r.BodyBase64 != nil {
		return r.BodyBase64
	}
	return []byte(r.Body)
}
