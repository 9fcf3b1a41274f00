package cli

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// maxAnswerShown is how much of an answer's body is printed, in bytes.
const maxAnswerShown = 1 << 10

// sender sends notifications to one URL, as Intercom would.
type sender struct {
	client  *http.Client
	url     string
	topic   string
	body    []byte // if nil, each request gets a sample of the topic
	secret  []byte
	headers http.Header // replace the usual headers with the same names
}

// sendResult is the answer to one notification.
type sendResult struct {
	name   string // what was sent
	size   int    // of the body sent
	status int
	answer []byte // the beginning of the answer's body
	took   time.Duration
	err    error // set if there was no complete answer
}

func newSendClient(timeout time.Duration, insecure bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: insecure} //nolint:gosec // only with --insecure
	transport.MaxIdleConnsPerHost = maxInFlight
	transport.DisableCompression = true // Intercom is not known to send Accept-Encoding
	return &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends one notification and waits for the complete answer.
func (s *sender) send(ctx context.Context) sendResult {
	name, body, err := s.notification()
	if err != nil {
		return sendResult{err: err}
	}
	req, err := s.request(ctx, body)
	if err != nil {
		return sendResult{err: err}
	}
	r := sendResult{name: name, size: len(body)}
	start := time.Now()
	r.status, r.answer, r.err = s.roundTrip(req)
	r.took = time.Since(start)
	return r
}

// notification returns the body of the next request, and the name to print for it.
func (s *sender) notification() (name string, body []byte, err error) {
	if s.body != nil {
		return s.topic, s.body, nil
	}
	n, err := intercom.NewNotification(s.topic)
	if err != nil {
		return "", nil, err
	}
	name = s.topic
	if n.ID != nil {
		name += " " + *n.ID
	}
	body, err = n.Encode()
	return name, body, err
}

// request makes a signed request with the headers of Intercom's documented sample. The
// headers of --header replace them, including the signature.
func (s *sender) request(ctx context.Context, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("User-Agent", "intercom-parrot-service-client/1.0")
	req.Header.Set(intercom.HubSignature, s.sign(body))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	maps.Copy(req.Header, s.headers)
	req.Host = s.headers.Get("Host") // net/http ignores it in the header
	return req, nil
}

func (s *sender) sign(body []byte) string {
	mac := hmac.New(sha1.New, s.secret)
	mac.Write(body)
	return intercom.HubSignaturePrefix + hex.EncodeToString(mac.Sum(nil))
}

func (s *sender) roundTrip(req *http.Request) (status int, answer []byte, err error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, s.explain(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerShown))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return 0, nil, s.explain(err)
	}
	return resp.StatusCode, answer, nil
}

// explain adds to an error what the user can do about it.
func (s *sender) explain(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("sending: no answer within %s (Intercom waits 5s; see --timeout)", s.client.Timeout)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("sending: %w (for a local certificate: caddy trust, or --insecure)", err)
	case errors.As(err, new(*net.OpError)):
		return fmt.Errorf("sending: %w (is the server running at this URL?)", err)
	default:
		return fmt.Errorf("sending: %w", err)
	}
}

// ok reports whether the answer was a 2xx.
func (r sendResult) ok() bool { return intercom.Accepts(r.status) }

// report prints one line for the answer and, if it is not a 2xx, its body.
func (r sendResult) report(w io.Writer) {
	fmt.Fprintf(w, "%s in %s%s, %s bytes sent", statusText(r.status), roundTime(r.took), lateness(r.took), comma(r.size))
	if r.name != "" {
		fmt.Fprintf(w, ", %s", r.name)
	}
	fmt.Fprintln(w)
	if text := printable(r.answer); !r.ok() && text != "" {
		fmt.Fprintln(w, text)
	}
}

// statusText returns the status with the standard text. The server's own text is not used,
// because it may not be safe to print.
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// lateness says how Intercom reacts to an answer that takes so long.
func lateness(took time.Duration) string {
	switch {
	case took > intercom.AnswerTimeout:
		return " (over 5s: Intercom gives up)"
	case took > intercom.PriorityTimeout:
		return " (over 500ms: lower priority)"
	default:
		return ""
	}
}

func comma(n int) string { return humanize.Comma(int64(n)) }

func roundTime(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// printable makes text from a server safe to print on a terminal.
func printable(text []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, string(text)))
}
