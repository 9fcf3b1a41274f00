package jobdb

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"riverqueue.com/riverui"
)

// newUI starts River's web UI, which runs until the context ends. Its client works on no
// jobs.
func newUI[TTx any](ctx context.Context, driver riverdriver.Driver[TTx], schema, prefix string, logger *slog.Logger) (http.Handler, error) {
	client, err := river.NewClient(driver, &river.Config{Logger: logger, Schema: schema})
	if err != nil {
		return nil, fmt.Errorf("river's client: %w", err)
	}
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil),
		Logger:    logger,
		Prefix:    prefix,
	})
	if err != nil {
		return nil, fmt.Errorf("river's UI: %w", err)
	}
	if err := ui.Start(ctx); err != nil {
		return nil, fmt.Errorf("starting river's UI: %w", err)
	}
	return ui, nil
}
