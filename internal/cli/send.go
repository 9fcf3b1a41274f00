package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/option"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

func newSendCommand() *cobra.Command {
	cmd := newRunCommand("send", cobra.ArbitraryArgs, runSend)
	cmd.ValidArgsFunction = completeTopic
	cmd.Flags().Bool("list", false, "Print what can be sent, and send nothing")
	cmd.Flags().Bool("all", false, "Send a notification of each known topic")
	cmd.Flags().String("workspace", "", "Id of the workspace that the sample is of (its app_id)")
	addSendFlags(cmd.Flags())
	appRequest := newRunCommand("send-app-request", cobra.ExactArgs(2), runSendAppRequest)
	appRequest.ValidArgs = intercom.AppRequestKinds()
	addSendFlags(appRequest.Flags())
	cmd.AddCommand(appRequest)
	return cmd
}

// addSendFlags adds the flags that newContentSender reads.
func addSendFlags(flags *pflag.FlagSet) {
	addSigningFlags(flags)
	flags.String("body", "", "File to send as it is, - for standard input")
	flags.StringArray("set", nil, "Field of the sample to change, as in data.item.state=closed (repeatable)")
	flags.Bool("print", false, "Print the request as a command of curl, and send nothing")
	flags.Bool("json", false, "Print JSON")
}

// newContentSender makes a sender to a URL with the headers and the body of the flags. Without
// --body, the body is nil.
func newContentSender(r *run, scheme *signature.Scheme, target string) (*sender, error) {
	s, err := newSigningSender(r, scheme, target)
	if err != nil {
		return nil, err
	}
	if s.changes, err = r.GetStringArray("set"); err != nil {
		return nil, err
	}
	if file := r.String("body"); file != "" {
		if len(s.changes) > 0 {
			return nil, usagef("--body is sent as it is: leave out --set")
		}
		const maxBody = 64 << 20
		if s.body, err = readFile(file, r.in, maxBody); err != nil {
			return nil, usagef("reading the body of --body: %w", err)
		}
	}
	return s, nil
}

// runSend sends a notification and prints the answer.
func runSend(ctx context.Context, r *run, args []string) error {
	if r.Bool("list") {
		return listSamples(r)
	}
	topics, target, err := sendArgs(r, args)
	if err != nil {
		return err
	}
	scheme := signature.Hub
	if intercom.IsFin(topics[0]) {
		scheme = signature.Fin
	}
	s, err := newContentSender(r, scheme, target)
	if err != nil {
		return err
	}
	failed := 0
	if r.Changed("workspace") {
		s.changes = append([]string{"app_id=" + r.String("workspace")}, s.changes...)
	}
	s.name = topics[0]
	if _, _, err := s.content(); err != nil { // a change that cannot be is wrong use
		return err
	}
	for _, s.name = range topics {
		result, err := s.sendAndPrint(ctx, r)
		if err != nil && (len(topics) == 1 || result.Status == 0) {
			return err // the others would get no answer, either
		}
		if err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %s were not answered 2xx: Intercom would count these as failed", failed, count(len(topics), "notification"))
	}
	return nil
}

// runSendAppRequest sends an app request and prints the answer, which Intercom uses if it is JSON.
func runSendAppRequest(ctx context.Context, r *run, args []string) error {
	kind := args[0]
	sample, err := intercom.NewAppRequest(kind)
	if err != nil {
		return usagef("app request %q is not known: the kinds are %s", kind, option.Choices(kind, intercom.AppRequestKinds()))
	}
	s, err := newContentSender(r, signature.Body, args[1])
	if err != nil {
		return err
	}
	s.name = kind
	if s.body == nil {
		if s.body, err = setFields(sample, s.changes); err != nil {
			return err
		}
	}
	answer, err := s.sendAndPrint(ctx, r)
	if err == nil && answer.Status != 0 && kind != "uninstall" && !json.Valid(answer.body) {
		err = fmt.Errorf("the answer to %s is not JSON: Intercom cannot use it", kind)
	}
	return err
}

// listSamples prints what can be sent.
func listSamples(r *run) error {
	for _, topic := range slices.Concat(intercom.Topics(), intercom.FinTopics()) {
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

// sendArgs returns the topics and the URL. A topic must be a known one. With --body, it may be
// any, and is optional.
func sendArgs(r *run, args []string) (topics []string, target string, err error) {
	all, ownBody := r.Bool("all"), r.String("body") != ""
	switch {
	case ownBody && (all || r.Changed("workspace")):
		return nil, "", usagef("--body is sent as it is: leave out --all and --workspace")
	case r.Changed("workspace") && r.String("workspace") == "":
		return nil, "", usagef("--workspace is empty: give the id of a workspace")
	case all && len(args) == 1:
		return intercom.Topics(), args[0], nil
	case len(args) == 1 && ownBody:
		return []string{""}, args[0], nil
	case len(args) != 2 || all:
		return nil, "", usagef("got %s: expecting <topic> <url>, --all <url>, or --body <file> <url>", count(len(args), "argument"))
	}
	topic := args[0]
	if intercom.IsKnown(intercom.FinPrefix + topic) { // the name of an event
		topic = intercom.FinPrefix + topic
	}
	switch {
	case intercom.IsFin(topic) && r.Changed("workspace"):
		return nil, "", usagef("an event of the Fin Agent API has no workspace: leave out --workspace")
	case !intercom.IsKnown(topic) && !ownBody:
		return nil, "", usagef("%s; to send it anyway, give its body with --body", unknownTopic(topic))
	}
	return []string{topic}, args[1], nil
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
