package intercom

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
)
