package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// secretEnv names the environment variable that holds the client secret.
const secretEnv = "INTERCOM_CLIENT_SECRET"

func newSendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send <topic> <url>",
		Short: "Sends a signed notification, as Intercom would",
		Long: `
Sends a notification of the given topic to the given URL, signed as Intercom signs
it, and prints the status of the answer, the time it took, and the size sent. The
notification is made from a sample of the object that the topic carries. There is a
sample for every known topic.

The secret is the client secret of the app in Intercom's Developer Hub. It is taken
from the first one given of --secret, --secret-file and the environment variable
` + secretEnv + `. Other users of the machine may see the value of the flag
in the list of processes, so prefer the other two. A secret file may have several
secrets, one a line, as for client_secret: the first line that is not blank is used,
without spaces around it.

With --body, the file ("-" is standard input) is signed and sent without changes.
The topic is then only printed: it is optional, and may be unknown.

With --header, requests have another header or, with an empty value, do not have it.
This includes the signature header, so that refusals can be tested. A header that is
given twice is sent twice.

With --count, several notifications are sent, one after the other, each when the one
before it is answered. Each has its own id; with --body, all are the same. With --rate,
this many are sent per second, even if earlier ones are not answered yet, but at most
` + fmt.Sprint(maxInFlight) + ` wait for their answer at the same time. The summary counts the answers by
status, and those that are too late for Intercom: after 500ms it gives the endpoint a
lower priority, and after 5s it gives up.

Redirects are not followed. The exit code is 0 if every notification was answered
with a 2xx, 3 if one was not, and 1 if the arguments are wrong.

Examples:

	$ caddy intercom-webhook send conversation.user.created https://localhost/intercom --insecure

	$ caddy intercom-webhook send --body captured.json http://localhost:8080/intercom

	$ caddy intercom-webhook send ping http://localhost:8080/intercom --header 'X-Hub-Signature: sha1=0'

	$ caddy intercom-webhook send ticket.created http://localhost:8080/intercom --count 6000 --rate 100
`,
		ValidArgs: intercom.Topics(), // for shell completion only
	}
	flags := cmd.Flags()
	flags.String("secret", "", "Client secret to sign with")
	flags.String("secret-file", "", "File with the client secret on its first line that is not blank")
	flags.String("body", "", "File to send as it is, - for standard input")
	flags.StringArrayP("header", "H", nil, "Header to send, replacing the usual one of its name (format: \"Name: value\"; repeatable)")
	flags.Int("count", 1, "How many notifications to send")
	flags.Float64("rate", 0, "Notifications per second (0 = each when the one before it is answered)")
	flags.Duration("timeout", 10*time.Second, "How long to wait for an answer")
	flags.Bool("insecure", false, "Do not verify the server's certificate (WARNING: for local tests only)")
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
		return runSend(cmd, fl)
	})
	return cmd
}

// runSend sends the notifications and prints the answers.
func runSend(cmd *cobra.Command, fl caddycmd.Flags) (int, error) {
	s, err := newSender(fl, cmd.InOrStdin())
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	l, err := newSendLoad(fl)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()

	if l.count == 1 {
		r := s.send(ctx)
		if r.err != nil {
			return caddy.ExitCodeFailedQuit, r.err
		}
		r.report(cmd.OutOrStdout())
		if !r.ok() {
			return caddy.ExitCodeFailedQuit, fmt.Errorf("answered %s: Intercom would count this as failed", statusText(r.status))
		}
		return caddy.ExitCodeSuccess, nil
	}

	t := l.run(ctx, s, cmd.ErrOrStderr())
	t.report(cmd.OutOrStdout())
	if t.ok < l.count {
		return caddy.ExitCodeFailedQuit, fmt.Errorf("%d of %d notifications were not answered with a 2xx", l.count-t.ok, l.count)
	}
	return caddy.ExitCodeSuccess, nil
}

// newSender makes a sender from the arguments and flags.
func newSender(fl caddycmd.Flags, stdin io.Reader) (*sender, error) {
	topic, target, err := sendArgs(fl)
	if err != nil {
		return nil, err
	}
	secret, err := clientSecret(fl)
	if err != nil {
		return nil, err
	}
	body, err := readBody(fl.String("body"), stdin)
	if err != nil {
		return nil, err
	}
	fields, err := fl.GetStringArray("header")
	if err != nil {
		return nil, err
	}
	headers, err := parseHeaders(fields)
	if err != nil {
		return nil, err
	}
	timeout := fl.Duration("timeout")
	if timeout <= 0 {
		return nil, fmt.Errorf("timeout %s must be longer than 0", timeout)
	}
	return &sender{
		client:  newSendClient(timeout, fl.Bool("insecure")),
		url:     target,
		topic:   topic,
		body:    body,
		secret:  secret,
		headers: headers,
	}, nil
}

// sendArgs returns the topic and the URL. The topic must be a known one. With --body, it
// may be any, and is optional.
func sendArgs(fl caddycmd.Flags) (topic, target string, err error) {
	body := fl.String("body")
	switch args := fl.Args(); {
	case len(args) == 2:
		topic, target = args[0], args[1]
	case len(args) == 1 && body != "":
		target = args[0]
	default:
		return "", "", fmt.Errorf("got %d arguments: expecting <topic> <url>, or --body <file> <url>", len(args))
	}
	if !intercom.IsKnown(topic) && body == "" {
		return "", "", fmt.Errorf("topic %q is not known: the nearest topics are %s; to send it anyway, give its body with --body",
			topic, strings.Join(intercom.NearestTopics(topic, 3), ", "))
	}
	if u, err := url.Parse(target); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", "", fmt.Errorf("url %q must start with http:// or https:// and a host", target)
	}
	return topic, target, nil
}

// clientSecret returns the secret from the first source that is given. An empty secret is
// an error: it is a mistake, and the user did not mean the secret of the next source.
func clientSecret(fl caddycmd.Flags) ([]byte, error) {
	var secret []byte
	var source string
	switch env, inEnv := os.LookupEnv(secretEnv); {
	case fl.Changed("secret"):
		secret, source = []byte(fl.String("secret")), "--secret"
	case fl.Changed("secret-file"):
		content, err := os.ReadFile(fl.String("secret-file"))
		if err != nil {
			return nil, fmt.Errorf("reading the client secret of --secret-file: %w", err)
		}
		secret, source = firstSecret(content), "the file of --secret-file" //nolint:gosec // a name of an option
	case inEnv:
		secret, source = []byte(env), secretEnv
	default:
		return nil, errors.New("no client secret: give it with --secret, --secret-file or the environment variable " + secretEnv)
	}
	if len(secret) == 0 {
		return nil, fmt.Errorf("the client secret of %s is empty: it is on the app's Basic Info page in Intercom's Developer Hub", source)
	}
	return secret, nil
}

// firstSecret returns the first line that is not blank, without the spaces around it; nil if
// there is none. A file that client_secret follows has one secret a line, the newest first.
func firstSecret(content []byte) []byte {
	for line := range bytes.Lines(content) {
		if secret := bytes.TrimSpace(line); len(secret) > 0 {
			return secret
		}
	}
	return nil
}

// readBody reads the body of --body. It returns nil without --body.
func readBody(file string, stdin io.Reader) (body []byte, err error) {
	switch file {
	case "":
		return nil, nil
	case "-":
		body, err = io.ReadAll(stdin)
	default:
		body, err = os.ReadFile(file) //nolint:gosec // named by the user
	}
	if err != nil {
		return nil, fmt.Errorf("reading the body of --body: %w", err)
	}
	return body, nil
}

// parseHeaders reads fields of the form "Name: value". A header without a value becomes
// nil, so that net/http does not send it. If it were missing instead, net/http would send
// its own User-Agent.
func parseHeaders(fields []string) (http.Header, error) {
	headers := make(http.Header)
	for _, field := range fields {
		name, value, found := strings.Cut(field, ":")
		name, value = http.CanonicalHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch {
		case !found || name == "":
			return nil, fmt.Errorf("header %q must have the form \"Name: value\"", field)
		case name == "Content-Length" || name == "Transfer-Encoding":
			return nil, fmt.Errorf("header %s follows from the body and cannot be set", name)
		case value == "":
			headers[name] = nil
		default:
			headers.Add(name, value)
		}
	}
	return headers, nil
}
