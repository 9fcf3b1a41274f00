package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

const (
	// maxAnswerShown is how much of the answer to a notification is printed, in bytes.
	maxAnswerShown = 1 << 10

	// maxAnswerRead is how much of an answer is kept, in bytes: all that an app request
	// can sensibly have.
	maxAnswerRead = 256 << 10
)

// sender sends requests to one URL, as Intercom would.
type sender struct {
	client  *http.Client
	url     string
	scheme  *signature.Scheme
	name    string // the topic, or the kind of app request
	body    []byte // if nil, each request gets a sample notification of the topic
	key     *signature.Key
	headers http.Header // replace the usual headers with the same names
}

// sendResult is the answer to one request.
type sendResult struct {
	Name    string      `json:"sent"`         // the topic, or the kind of app request
	ID      string      `json:"id,omitempty"` // of the notification
	Bytes   int         `json:"bytes"`        // the size of the body sent
	Status  int         `json:"status"`
	Seconds float64     `json:"seconds"`
	Answer  string      `json:"answer,omitempty"` // the beginning of the answer's body
	body    []byte      // the beginning of the answer's body, as it is
	header  http.Header // of the answer
	took    time.Duration
	err     error // set if there was no complete answer
}

func newSendClient(timeout time.Duration, insecure bool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: insecure} //nolint:gosec // only with --insecure
	transport.DisableCompression = true                                   // Intercom is not known to send Accept-Encoding
	return &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends one request and waits for the complete answer.
func (s *sender) send(ctx context.Context) sendResult {
	id, body, err := s.content()
	if err != nil {
		return sendResult{err: err}
	}
	req, err := s.request(ctx, body)
	if err != nil {
		return sendResult{err: err}
	}
	r := sendResult{Name: s.name, ID: id, Bytes: len(body)}
	start := time.Now()
	s.roundTrip(req, &r)
	r.took = time.Since(start)
	r.Seconds = r.took.Seconds()
	return r
}

// content returns the body of the next request and, if it is a sample, its id.
func (s *sender) content() (id string, body []byte, err error) {
	if s.body != nil {
		return "", s.body, nil
	}
	n, err := intercom.NewNotification(s.name)
	if err != nil {
		return "", nil, err
	}
	if n.ID != nil {
		id = *n.ID
	}
	body, err = n.Encode()
	return id, body, err
}

// request makes a signed request with the headers of Intercom's documented sample. The
// headers of --header replace them, including the signature.
func (s *sender) request(ctx context.Context, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("User-Agent", "intercom-parrot-service-client/1.0")
	req.Header.Set(s.scheme.Header, s.key.Header(s.scheme, body))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	maps.Copy(req.Header, s.headers)
	req.Host = s.headers.Get("Host") // net/http ignores it in the header
	return req, nil
}

// roundTrip sends a request, and puts the answer into r.
func (s *sender) roundTrip(req *http.Request, r *sendResult) {
	resp, err := s.client.Do(req)
	if err != nil {
		r.err = s.explain(err)
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerRead))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		r.err = s.explain(err)
		return
	}
	r.Status, r.header, r.body = resp.StatusCode, resp.Header, answer
	r.Answer = strings.TrimSpace(string(answer[:min(len(answer), maxAnswerShown)]))
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

// sendAndPrint sends one request and prints the answer.
func (s *sender) sendAndPrint(ctx context.Context, r *run) (sendResult, error) {
	result := s.send(ctx)
	if result.err != nil {
		return result, result.err
	}
	return result, r.print(result, func(out io.Writer) { result.report(out, s.scheme == signature.Body) })
}

// ok reports whether the answer was a 2xx.
func (r sendResult) ok() bool { return intercom.Accepts(r.Status) }

// notAccepted returns the error for an answer that is no 2xx.
func (r sendResult) notAccepted() error {
	return fmt.Errorf("answered %s: Intercom would count this as failed", statusText(r.Status))
}

// report prints one line for the answer. If it is not a 2xx, or somebody waits for it, its body
// follows.
func (r sendResult) report(w io.Writer, awaited bool) {
	fmt.Fprintf(w, "%s in %s%s, %s bytes sent", statusText(r.Status), roundTime(r.took), lateness(r.took), comma(r.Bytes))
	if name := strings.TrimSpace(r.Name + " " + r.ID); name != "" {
		fmt.Fprintf(w, ", %s", escape(name))
	}
	fmt.Fprintln(w)
	switch {
	case awaited && json.Valid(r.body):
		fmt.Fprintln(w, prettyBody(r.body))
	case (awaited || !r.ok()) && r.Answer != "":
		fmt.Fprintln(w, escapeLines(r.Answer))
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

// secretEnv names the environment variable that holds the client secret.
const secretEnv = "INTERCOM_CLIENT_SECRET"

func addSecretFlags(flags *pflag.FlagSet) {
	flags.String("secret", "", "Client secret (WARNING: other users of the machine can see it in the list of processes)")
	flags.String("secret-file", "", "File with the client secret, or with several, one a line")
}

// clientSecrets returns the keys of the first source of secrets that is given: at least one. An
// empty secret is an error: it is a mistake, and the user did not mean the secret of the next
// source. A warning is written if other users can see the secret.
func clientSecrets(r *run) ([]*signature.Key, error) {
	var secrets []string
	var source string
	switch env, inEnv := os.LookupEnv(secretEnv); {
	case r.Changed("secret"):
		fmt.Fprintln(r.notes, "warning: other users of this machine can see the value of --secret in the list of processes; use --secret-file or "+secretEnv)
		secrets, source = []string{r.String("secret")}, "--secret"
	case r.Changed("secret-file"):
		content, err := os.ReadFile(r.String("secret-file"))
		if err != nil {
			return nil, usagef("reading the client secret of --secret-file: %w", err)
		}
		for line := range strings.Lines(string(content)) { // as client_secret reads it
			secrets = append(secrets, strings.TrimSpace(line))
		}
		source = "the file of --secret-file"
	case inEnv:
		secrets, source = []string{env}, secretEnv
	default:
		return nil, usagef("no client secret: give it with --secret, --secret-file or the environment variable %s", secretEnv)
	}
	var keys []*signature.Key
	for _, secret := range secrets {
		if secret != "" {
			keys = append(keys, signature.NewKey(secret))
		}
	}
	if len(keys) == 0 {
		return nil, usagef("the client secret of %s is empty: it is on the app's Basic information page in Intercom's Developer Hub", source)
	}
	return keys, nil
}
