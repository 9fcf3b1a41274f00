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
