// Package logging has what several packages do with Caddy's logger.
package logging

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// OncePerSecond returns a logger that writes each message at most once a second, and drops
// the others. It is for events that clients or backends can cause at any rate.
func OncePerSecond(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 1, 0)
	}))
}

// The messages of log lines about attempts to deliver.
const (
	Delivered    = "notification was delivered"
	NotDelivered = "notification was not delivered"
)

// Attempt is an attempt to deliver a notification, as log lines have it, with and without a
// queue.
type Attempt struct {
	ID, Topic, AppID string
	Lane             string
	Number           int // from 1
	Upstream         string
	Status           int // of the backend's answer; 0 if there was none
	Duration         time.Duration
	Err              error // nil if the notification was delivered; its text must be safe to log
}

// MarshalLogObject writes the attempt to a log. It omits what is not known.
func (a Attempt) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	AddString(enc, "id", a.ID)
	AddString(enc, "topic", a.Topic)
	AddString(enc, "app_id", a.AppID)
	AddString(enc, "lane", a.Lane)
	enc.AddInt("attempt", a.Number)
	AddString(enc, "upstream", a.Upstream)
	if a.Status != 0 {
		enc.AddInt("status", a.Status)
	}
	enc.AddDuration("duration", a.Duration)
	if a.Err != nil {
		enc.AddString("error", a.Err.Error())
	}
	return nil
}

// AddString adds a field to a log, unless its value is empty.
func AddString(enc zapcore.ObjectEncoder, name, value string) {
	if value != "" {
		enc.AddString(name, value)
	}
}

// Interface guard
var _ zapcore.ObjectMarshaler = Attempt{}
