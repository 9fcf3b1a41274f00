// Package intercom has the facts about Intercom's webhooks that other packages share:
// the known topics and a sample of each, the limits, and the signature headers.
package intercom

import "time"

// Source: https://developers.intercom.com/docs/webhooks/webhook-notifications
const (
	// PriorityTimeout is how long an answer may take before Intercom gives the endpoint
	// a lower priority.
	PriorityTimeout = 500 * time.Millisecond

	// AnswerTimeout is how long Intercom waits for an answer.
	AnswerTimeout = 5 * time.Second

	// MaxErrors is the number of error answers within 15 minutes, without a good one
	// between them, at which Intercom pauses all notifications.
	MaxErrors = 1000
)

// Regions are Intercom's regions.
// Source: https://developers.intercom.com/docs/build-an-integration/learn-more/ip-allowlisting
var Regions = [...]string{"us", "eu", "au"}

// IPRangesURL is where the addresses of a region are published; {region} is its name.
const IPRangesURL = "https://static.intercomcdn.com/intercom-ips/{region}/intercom-ip-ranges.json"

// Accepts reports whether Intercom counts an answer with this status as good.
func Accepts(status int) bool { return status >= 200 && status <= 299 }

// The headers that carry the signature of a request. Each scheme has its own.
const (
	// HubSignature is the header of notifications: HubSignaturePrefix, and the
	// HMAC-SHA1 of the body in hexadecimal digits.
	// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
	HubSignature       = "X-Hub-Signature"
	HubSignaturePrefix = "sha1="

	// BodySignature is the header of app requests (Canvas Kit, health checks,
	// uninstalls): the HMAC-SHA256 of the body in hexadecimal digits.
	// Source: https://developers.intercom.com/docs/canvas-kit
	BodySignature = "X-Body-Signature"

	// FinSignature is the header of Fin Agent API events, in the form that net/http gives it:
	// FinSignaturePrefix, and the HMAC-SHA256 of the body in hexadecimal digits.
	// Source: https://developers.intercom.com/docs/guides/fin-agent-api
	FinSignature       = "X-Fin-Agent-Api-Webhook-Signature"
	FinSignaturePrefix = "sha256="
)
