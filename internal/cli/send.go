package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newSendCommand() *cobra.Command {
	cmd := newCommand("send")
	cmd.Args, cmd.ValidArgsFunction, cmd.RunE = cobra.ArbitraryArgs, completeTopic, runE(runSend)
	flags := cmd.Flags()
	addSecretFlags(flags)
	flags.String("body", "", "File to send as it is, - for standard input")
	flags.Bool("list", false, "Print what can be sent, and send nothing")
	addRequestFlags(flags)
	cmd.AddCommand(newSendAppRequestCommand())
	return cmd
}

// addRequestFlags adds the flags that newSender reads, except those of the secret.
func addRequestFlags(flags *pflag.FlagSet) {
	flags.StringArrayP("header", "H", nil, "Header to send, replacing the usual one of its name (format: \"Name: value\"; repeatable)")
	flags.Duration("timeout", 10*time.Second, "How long to wait for an answer")
	flags.Bool("insecure", false, "Do not verify the server's certificate (WARNING: for local tests only)")
	flags.Bool("json", false, "Print JSON")
}

// runSend sends a notification and prints the answer.
func runSend(ctx context.Context, r *run, args []string) error {
	if r.Bool("list") {
		return listSamples(r)
	}
	topic, target, err := sendArgs(args, r.String("body"))
	if err != nil {
		return err
	}
	s, err := newSender(r, target)
	if err != nil {
		return err
	}
	s.scheme, s.name = signature.Hub, topic
	answer, err := s.sendAndPrint(ctx, r)
	if err == nil && !answer.ok() {
		err = answer.notAccepted()
	}
	return err
}

// listSamples prints what can be sent.
func listSamples(r *run) error {
	for _, topic := range intercom.Topics() {
		if err := r.print(map[string]string{"topic": topic}, func(out io.Writer) { fmt.Fprintln(out, topic) }); err != nil {
			return err
		}
	}
	for _, kind := range intercom.AppRequestKinds() {
		if err := r.print(map[string]string{"app_request": kind}, func(out io.Writer) { fmt.Fprintln(out, "app-request", kind) }); err != nil {
			return err
		}
	}
	return nil
}

// newSender makes a sender to a URL from the flags.
func newSender(r *run, target string) (*sender, error) {
	if err := checkURL("url", target); err != nil {
		return nil, err
	}
	keys, err := clientSecrets(r)
	if err != nil {
		return nil, err
	}
	fields, err := r.GetStringArray("header")
	if err != nil {
		return nil, err
	}
	headers, err := parseHeaders(fields)
	if err != nil {
		return nil, err
	}
	timeout := r.Duration("timeout")
	if timeout <= 0 {
		return nil, usagef("timeout %s must be longer than 0", timeout)
	}
	body, err := readBody(r.String("body"), r.in)
	if err != nil {
		return nil, err
	}
	return &sender{
		client:  newSendClient(timeout, r.Bool("insecure")),
		url:     target,
		body:    body,
		key:     keys[0],
		headers: headers,
	}, nil
}

// checkURL returns an error if what, an argument or a flag, is no URL that requests can be sent to.
func checkURL(what, target string) error {
	if u, err := url.Parse(target); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return usagef("%s %q must start with http:// or https:// and a host, as in http://localhost:3000/hook", what, strings.TrimSpace(target))
	}
	return nil
}

// sendArgs returns the topic and the URL. The topic must be a known one. With --body, it
// may be any, and is optional.
func sendArgs(args []string, body string) (topic, target string, err error) {
	switch {
	case len(args) == 2:
		topic, target = args[0], args[1]
	case len(args) == 1 && body != "":
		target = args[0]
	default:
		return "", "", usagef("got %s: expecting <topic> <url>, or --body <file> <url>", count(len(args), "argument"))
	}
	if !intercom.IsKnown(topic) && body == "" {
		return "", "", usagef("topic %q is not known: the nearest topics are %s; to send it anyway, give its body with --body",
			topic, strings.Join(intercom.NearestTopics(topic, 3), ", "))
	}
	return topic, target, nil
}

// readBody reads the body of --body. It returns nil without --body.
func readBody(file string, stdin io.Reader) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	const maxBody = 64 << 20
	body, err := readFile(file, stdin, maxBody)
	if err != nil {
		return nil, usagef("reading the body of --body: %w", err)
	}
	return body, nil
}

// readFile reads a file that the user has named; "-" is standard input. What is larger than most
// is an error.
func readFile(name string, stdin io.Reader, most int64) ([]byte, error) {
	if name != "-" {
		file, err := os.Open(name) //nolint:gosec // named by the user
		if err != nil {
			return nil, err
		}
		defer file.Close()
		stdin = file
	}
	content, err := io.ReadAll(io.LimitReader(stdin, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s is larger than %d MiB", name, most>>20)
	}
	return content, err
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
			return nil, usagef("header %q must have the form \"Name: value\"", field)
		case name == "Content-Length" || name == "Transfer-Encoding":
			return nil, usagef("header %s follows from the body and cannot be set", name)
		case value == "":
			headers[name] = nil
		default:
			headers.Add(name, value)
		}
	}
	return headers, nil
}
