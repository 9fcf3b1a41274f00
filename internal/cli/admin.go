package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
)

// adminClient speaks to the admin endpoint of a running Caddy. It is made instead of
// caddycmd.AdminAPIRequest, which can neither be canceled nor tells the status of an error.
type adminClient struct {
	address  string // as the user knows it
	origin   string
	isSocket bool
	http     *http.Client
}

// adminError is the answer of an admin endpoint that is an error.
type adminError struct {
	status int
	text   string
}

func (e *adminError) Error() string { return e.text }

// addAdminFlags adds the flags that newAdminClient reads. They are those of Caddy's own
// commands.
func addAdminFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("address", "", "Address of Caddy's admin endpoint (default \""+caddy.DefaultAdminListen+"\")")
	flags.StringP("config", "c", "", "Config file to take the address of the admin endpoint from, without --address")
	flags.StringP("adapter", "a", "", "Name of the config adapter to apply to --config")
}

// newAdminClient returns a client for the admin endpoint that the flags name.
func newAdminClient(fl caddycmd.Flags) (*adminClient, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, usagef("address of the admin endpoint in --config: %w", err)
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	c := &adminClient{address: address, origin: "http://" + parsed.JoinHostPort(0), isSocket: parsed.IsUnixNetwork()}
	if c.isSocket {
		parsed.Host, _, _ = strings.Cut(parsed.Host, "|") // the permissions of the socket
		c.origin = "http://127.0.0.1"
	}
	if _, bad := url.Parse(c.origin); err != nil || bad != nil || parsed.PortRangeSize() > 1 {
		return nil, usagef("address %q of the admin endpoint must be as in localhost:2019 or unix//run/caddy-admin.sock", address)
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, parsed.Network, parsed.JoinHostPort(0))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// ask sends a request, and calls do for each line of the answer, decoded and as it is. The
// error is that of ctx once ctx is done, an *adminError if the endpoint answers with one, and a
// *lineError if the last line says that the answer could not be completed.
func ask[T any](ctx context.Context, c *adminClient, method, path string, query url.Values, do func(value T, line json.RawMessage) error) error {
	response, err := c.do(ctx, method, path, query)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var line json.RawMessage
		err := decoder.Decode(&line)
		switch {
		case err == io.EOF:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, new(*json.SyntaxError)):
			return fmt.Errorf("the answer of %s is not JSON: name the admin endpoint of a Caddy with --address", c.address)
		case err != nil:
			return fmt.Errorf("the answer of the Caddy at %s ended early (%w): it was stopped, or has a new config; try again", c.address, err)
		}
		var value T
		var last struct {
			adminapi.Last
			ID json.RawMessage `json:"id"` // a delivery has one, and an error of its own
		}
		if err := cmp.Or(json.Unmarshal(line, &last), json.Unmarshal(line, &value)); err != nil {
			return fmt.Errorf("the answer of Caddy has an unknown form (%w): is it a newer or older version than this command?", err)
		}
		if last.Error != "" && last.ID == nil {
			return &lineError{last.Last}
		}
		if err := do(value, line); err != nil {
			return err
		}
	}
}

// lineError is the last line of an answer that could not be completed.
type lineError struct{ adminapi.Last }

func (e *lineError) Error() string { return e.Last.Error }

// do sends a request. The caller closes the body of the response, whose status is 2xx.
func (c *adminClient) do(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	const maxQuery = 16 << 10 // a quarter of what Caddy's admin endpoint takes as the head of a request
	target, form := c.origin+path, ""
	if encoded := query.Encode(); method == http.MethodPost && len(encoded) > maxQuery {
		form = encoded
	} else if encoded != "" {
		target += "?" + encoded
	}
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form))
	if err != nil {
		return nil, fmt.Errorf("asking the Caddy at %s: %w", c.address, err)
	}
	if form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if !c.isSocket { // which has no origin that Caddy would allow
		request.Header.Set("Origin", c.origin)
	}
	response, err := c.http.Do(request)
	var op *net.OpError
	switch {
	case ctx.Err() != nil:
		if err == nil {
			response.Body.Close()
		}
		return nil, ctx.Err()
	case errors.As(err, &op) && op.Op == "dial":
		return nil, fmt.Errorf("no Caddy answers at %s (%w): start it, or name its admin endpoint with --address; a Caddy with \"admin off\" has none", c.address, errors.Unwrap(err))
	case err != nil:
		return nil, fmt.Errorf("%s does not answer as the admin endpoint of a Caddy (%w): name it with --address", c.address, errors.Unwrap(err))
	case response.StatusCode/100 != 2:
		defer response.Body.Close()
		return nil, c.readError(response)
	}
	return response, nil
}

// readError returns the error of an answer whose status is not 2xx.
func (c *adminClient) readError(response *http.Response) error {
	var answer struct {
		Error string `json:"error"`
	}
	err := json.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer)
	text := answer.Error
	switch known := err == nil && text != ""; {
	case !known && response.StatusCode == http.StatusNotFound:
		text = fmt.Sprintf("the Caddy at %s does not know this command: it runs without the module intercom_webhook, or with an older version; "+
			"build it with the module, as new as this one, and restart it, or name another Caddy with --address", c.address)
	case !known:
		text = fmt.Sprintf("%s answers %s: name the admin endpoint of a Caddy with --address", c.address, response.Status)
	case response.StatusCode == http.StatusForbidden:
		text = fmt.Sprintf("the Caddy at %s refuses this client (%s): use the address that its config has in the global option admin", c.address, text)
	}
	return &adminError{response.StatusCode, text}
}
