package intercom

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// appSamples has one body for each kind of app request. They have the shape that Intercom's
// docs give, and invented data.
// Source: https://developers.intercom.com/docs/canvas-kit
//
//go:embed samples/app_requests/*.json
var appSamples embed.FS

// appRequests maps each kind of app request to its sample
// (samples/app_requests/<name>.json).
var appRequests = map[string]string{
	"health-check": "health_check", // about daily, of each workspace
	"initialize":   "initialize",   // Canvas Kit: the app is shown
	"submit":       "submit",       // Canvas Kit: a component is used
	"uninstall":    "uninstall",
}

// AppRequestKinds returns the kinds of app requests, sorted.
func AppRequestKinds() []string { return slices.Sorted(maps.Keys(appRequests)) }

// NewAppRequest returns the body of a sample app request of a known kind, as compact JSON.
func NewAppRequest(kind string) ([]byte, error) {
	sample, err := appSamples.ReadFile("samples/app_requests/" + appRequests[kind] + ".json")
	if err != nil {
		return nil, fmt.Errorf("reading the sample of app request %q: %w", kind, err)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, sample); err != nil {
		return nil, fmt.Errorf("reading the sample of app request %q: %w", kind, err)
	}
	return body.Bytes(), nil
}
