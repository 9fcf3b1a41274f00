package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/secrets"
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

	changes []string // of fields of the sample, as --set has them
}

// sendResult is the answer to one request.
type sendResult struct {
	Name    string  `json:"sent,omitempty"`  // the topic, or the kind of app request
	ID      string  `json:"id,omitempty"`    // of the notification
	Bytes   int     `json:"bytes,omitempty"` // the size of the body sent
	Status  int     `json:"status,omitempty"`
	Seconds float64 `json:"seconds"`
	Answer  string  `json:"answer,omitempty"` // the beginning of the answer's body
	Error   string  `json:"error,omitempty"`  // why there was no complete answer

	body      []byte // more of the answer's body, as it is
	challenge string // the header WWW-Authenticate
}

// addSenderFlags adds the flags that newSender reads.
func addSenderFlags(flags *pflag.FlagSet) {
	flags.Duration("timeout", 10*time.Second, "How long to wait for an answer")
	flags.Bool("insecure", false, "Do not verify the server's certificate (WARNING: for local tests only)")
}

// addSigningFlags adds the flags that newSigningSender reads.
func addSigningFlags(flags *pflag.FlagSet) {
	addSecretFlags(flags)
	flags.StringArrayP("header", "H", nil, "Header to send, replacing the usual one of its name (format: \"Name: value\"; repeatable)")
	addSenderFlags(flags)
}

// newSender makes a sender to a URL, which is that of what, an argument or a flag. It has no key.
func newSender(r *run, what, target string) (*sender, error) {
	if u, err := url.Parse(target); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, usagef("%s %q must start with http:// or https:// and a host, as in http://localhost:3000/hook", what, strings.TrimSpace(target))
	}
	timeout := r.Duration("timeout")
	if timeout <= 0 {
		return nil, usagef("--timeout %s must be longer than 0", timeout)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: r.Bool("insecure")} //nolint:gosec // only with --insecure
	transport.DisableCompression = true                                             // Intercom is not known to send Accept-Encoding
	return &sender{url: target, client: &http.Client{
		Transport:     transport,
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// newSigningSender makes a sender to the URL in an argument, with the first secret and the
// headers of the flags.
func newSigningSender(r *run, scheme *signature.Scheme, target string) (*sender, error) {
	s, err := newSender(r, "url", target)
	if err != nil {
		return nil, err
	}
	fields, err := r.GetStringArray("header")
	if err != nil {
		return nil, err
	}
	if s.headers, err = parseHeaders(fields); err != nil {
		return nil, err
	}
	s.scheme = scheme
	keys, err := secretKeys(r, scheme)
	if err == nil {
		s.key = keys[0]
	}
	return s, err
}

// request returns the next request, with the headers of Intercom's documented sample. Those of the
// sender replace them, the signature too. The id is that of a sample.
func (s *sender) request(ctx context.Context) (req *http.Request, id string, body []byte, err error) {
	if id, body, err = s.content(); err != nil {
		return nil, "", nil, err
	}
	if req, err = http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body)); err != nil {
		return nil, "", nil, err
	}
	req.Header.Set("User-Agent", "intercom-parrot-service-client/1.0")
	req.Header.Set(s.scheme.Header, s.key.Header(s.scheme, body))
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	s.setHeaders(req)
	return req, id, body, nil
}

// setHeaders sets the headers of the sender.
func (s *sender) setHeaders(req *http.Request) {
	maps.Copy(req.Header, s.headers)
	req.Host = s.headers.Get("Host") // net/http ignores it in the header
}

// send sends one request, and waits for the complete answer.
func (s *sender) send(ctx context.Context) sendResult {
	req, id, body, err := s.request(ctx)
	if err != nil {
		return sendResult{Error: err.Error()}
	}
	r := s.roundTrip(req)
	r.Name, r.ID, r.Bytes = s.name, id, len(body)
	return r
}

// content returns the body of the next request and, if it is a sample, its id.
func (s *sender) content() (id string, body []byte, err error) {
	if s.body != nil {
		return "", s.body, nil
	}
	read := envelope.Parse
	if s.scheme == signature.Fin {
		read = envelope.ParseFin
		body, err = intercom.NewFinEvent(s.name)
	} else {
		body, err = newSample(s.name)
	}
	if err == nil {
		body, err = setFields(body, s.changes)
	}
	if err != nil {
		return "", nil, err
	}
	parsed, _, _ := read(body, nil) // what was set may be no notification any more
	return parsed.ID, body, nil
}

func newSample(topic string) ([]byte, error) {
	n, err := intercom.NewNotification(topic)
	if err != nil {
		return nil, err
	}
	return n.Encode()
}

// roundTrip sends a request, and waits for the complete answer.
func (s *sender) roundTrip(req *http.Request) (r sendResult) {
	start := time.Now()
	defer func() { r.Seconds = time.Since(start).Seconds() }()
	resp, err := s.client.Do(req)
	if err != nil {
		return sendResult{Error: s.explain(err)}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerRead))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return sendResult{Error: s.explain(err)}
	}
	return sendResult{Status: resp.StatusCode, challenge: resp.Header.Get("WWW-Authenticate"), body: answer, Answer: strings.TrimSpace(string(answer[:min(len(answer), maxAnswerShown)]))}
}

// explain says why there was no answer, and what the user can do about it.
func (s *sender) explain(err error) string {
	what, do := explainTLS(err)
	switch {
	case what != "":
		return fmt.Sprintf("sending: %s (%s)", what, do)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("sending: no answer within %s (Intercom waits 5s; see --timeout)", s.client.Timeout)
	case errors.As(err, new(*net.OpError)):
		return fmt.Sprintf("sending: %s (is the server running at this URL?)", err)
	}
	return "sending: " + err.Error()
}

// explainTLS says what is wrong with the certificate or with TLS, and what to do; nothing if it is
// something else.
func explainTLS(err error) (what, do string) {
	const logs = "look in Caddy's log for "
	expired, isExpired := errors.AsType[x509.CertificateInvalidError](err)
	wrong, isWrong := errors.AsType[x509.HostnameError](err)
	operation, _ := errors.AsType[*net.OpError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case isExpired && expired.Reason == x509.Expired && time.Now().Before(expired.Cert.NotBefore):
		return "the certificate is not valid before " + localTime(expired.Cert.NotBefore), "compare the clocks of this machine and of the server"
	case isExpired && expired.Reason == x509.Expired:
		return "the certificate has expired at " + localTime(expired.Cert.NotAfter), logs + "why it is not renewed"
	case isWrong:
		names := cmp.Or(strings.Join(wrong.Certificate.DNSNames, ", "), wrong.Certificate.Subject.CommonName, "no name")
		return fmt.Sprintf("the certificate is for %s, not for %s", names, wrong.Host), "correct the URL, or give the site this name, so that Caddy gets a certificate for it"
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return "the certificate is of nobody whom this machine trusts", "use a name that Caddy gets a public certificate for; for a local one: caddy trust, or --insecure"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return "the certificate is not valid: " + err.Error(), logs + "what it says of certificates"
	case operation != nil && operation.Op == "remote error": // an alert
		return fmt.Sprintf("the server ends the TLS handshake (%s): it has no certificate for this name", operation.Err),
			"correct the URL, or give the site this name; " + logs + "why it gets no certificate"
	case noTLS, strings.HasSuffix(err.Error(), "server gave HTTP response to HTTPS client"): // net/http has no type for it
		return "the server does not speak TLS at this port", "correct the port, or use http:// for a local test"
	}
	return "", ""
}

// sendAndPrint sends one request and prints the answer. What is no 2xx is an error. With --print, it
// only prints the request, and returns no status.
func (s *sender) sendAndPrint(ctx context.Context, r *run) (sendResult, error) {
	if r.Bool("print") {
		return sendResult{}, s.printRequest(ctx, r)
	}
	result := s.send(ctx)
	if result.Error != "" {
		return result, errors.New(result.Error)
	}
	err := r.print(result, func(out io.Writer) { result.report(out, s.scheme == signature.Body) })
	if err == nil && !result.ok() {
		err = fmt.Errorf("answered %s: Intercom would count this as failed", statusText(result.Status))
	}
	return result, err
}

// ok reports whether the answer was a 2xx.
func (r sendResult) ok() bool { return intercom.Accepts(r.Status) }

// report prints one line for the answer. If it is not a 2xx, or somebody waits for it, its body
// follows.
func (r sendResult) report(w io.Writer, awaited bool) {
	fmt.Fprintf(w, "%s %s, %s bytes sent", statusText(r.Status), inTime(r.Seconds), comma(r.Bytes))
	if name := strings.TrimSpace(r.Name + " " + r.ID); name != "" {
		fmt.Fprintf(w, ", %s", escape(name))
	}
	fmt.Fprintln(w)
	switch {
	case awaited && json.Valid(r.body):
		fmt.Fprintln(w, prettyBody(r.body))
	case (awaited || !r.ok()) && r.Answer != "":
		fmt.Fprintln(w, r.Answer)
	}
}

// statusText returns the status with the standard text. The server's own text is not used,
// because it may not be safe to print.
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// inTime says how long an answer took, and how Intercom reacts to one that is late.
func inTime(seconds float64) string {
	took := duration(seconds)
	text := "in " + took.String()
	switch {
	case took > intercom.AnswerTimeout:
		text += " (over 5s: Intercom gives up)"
	case took > intercom.PriorityTimeout:
		text += " (over 500ms: lower priority)"
	}
	return text
}

// The environment variables that hold the secrets.
const (
	secretEnv    = "INTERCOM_CLIENT_SECRET"
	finSecretEnv = "INTERCOM_FIN_SECRET" //nolint:gosec // a name
)

// secretOf returns the variable that holds the secret of a scheme, and where people find it.
func secretOf(scheme *signature.Scheme) (env, name, place string) {
	if scheme == signature.Fin {
		return finSecretEnv, "secret of the Fin Agent API", "under Fin AI Agent > Deploy > Fin Agent API"
	}
	return secretEnv, "client secret", "on the app's Basic information page in Intercom's Developer Hub"
}

func addSecretFlags(flags *pflag.FlagSet) {
	flags.String("secret", "", "Secret (WARNING: other users of the machine can see it in the list of processes)")
	flags.String("secret-file", "", "File with the secret, or with several, one a line")
}

// secretKeys returns the keys of the first source of secrets that is given: at least one. An
// empty secret is an error: it is a mistake, and the user did not mean the secret of the next
// source. A warning is written if other users can see the secret.
func secretKeys(r *run, scheme *signature.Scheme) ([]*signature.Key, error) {
	env, name, _ := secretOf(scheme)
	switch {
	case r.Changed("secret"):
		fmt.Fprintln(r.notes, "warning: other users of this machine can see the value of --secret in the list of processes; use --secret-file or "+env)
		return newKeys(scheme, "--secret", r.String("secret"))
	case r.Changed("secret-file"):
		content, err := os.ReadFile(r.String("secret-file"))
		if err != nil {
			return nil, usagef("reading the %s of --secret-file: %w", name, err)
		}
		given, err := secrets.Parse(content)
		if err != nil {
			return nil, usagef("the %s of --secret-file: %w", name, err)
		}
		return newKeys(scheme, "--secret-file", given...)
	}
	return envKeys(scheme, "with --secret, --secret-file or")
}

// envKeys returns the key of the secret in the environment. The other ways to give one are for
// the error.
func envKeys(scheme *signature.Scheme, otherWays string) ([]*signature.Key, error) {
	env, name, _ := secretOf(scheme)
	value, inEnv := os.LookupEnv(env)
	if !inEnv {
		return nil, usagef("no %s: give it %s the environment variable %s", name, otherWays, env)
	}
	return newKeys(scheme, env, value)
}

func newKeys(scheme *signature.Scheme, source string, given ...string) (keys []*signature.Key, err error) {
	_, name, place := secretOf(scheme)
	for _, text := range given {
		secret, err := secrets.Clean(text)
		if err != nil {
			return nil, usagef("the %s of %s: %w", name, source, err)
		}
		if secret == "" {
			return nil, usagef("the %s of %s is empty: it is %s", name, source, place)
		}
		keys = append(keys, signature.NewKey(secret))
	}
	return keys, nil
}
