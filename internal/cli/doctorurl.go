package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/adminapi"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// urlDoctor examines an endpoint that runs.
type urlDoctor struct {
	sender    // of a ping
	*findings // to which it adds

	ofTopic  sender // of the test notification; without a name none is sent
	insecure bool
	admin    *adminClient
}

const (
	// certificateWarning is how long before its end a certificate is worth a warning. Caddy
	// renews one when a third of its lifetime is left.
	certificateWarning = 7 * 24 * time.Hour

	// adminTimeout is how long to wait for what the admin endpoint says.
	adminTimeout = 3 * time.Second
)

// examine makes all checks.
func (d *urlDoctor) examine(ctx context.Context) {
	if !d.checkHead(ctx) {
		return
	}
	seen := d.watch(ctx)
	ping := d.send(ctx)
	if ping.Status == http.StatusForbidden {
		d.notChecked("signatures", "the ping was refused with 403: this machine's address is not in allow, as it should be for all but Intercom",
			"run doctor on the server itself, with an address of its own in allow, as in `allow static private_ranges` beside `allow intercom`; "+
				"if notifications of Intercom are refused, too, the refusals in Caddy's log have their client_ip: behind a proxy, set trusted_proxies and trusted_proxies_strict")
		return
	}
	if d.guarded("ping", "a signed ping", ping.Status, ping.challenge) {
		return
	}
	d.judge("ping", "a signed ping", ping)
	d.checkAddress(seen, ping)
	d.checkRefused(ctx, "wrong signature", "with a wrong signature", intercom.HubSignaturePrefix+strings.Repeat("0", 40))
	d.checkRefused(ctx, "no signature", "without a signature")
	d.checkSlash(ctx)
	if topic := d.ofTopic.name; topic != "" {
		d.judge("notification", "a notification of "+topic, d.ofTopic.send(ctx))
	}
}

// checkHead sends a HEAD, as Intercom does when the URL is saved, and looks at TLS. It reports
// whether there was an answer.
func (d *urlDoctor) checkHead(ctx context.Context) bool {
	head, err := d.head(ctx, d.url) //nolint:bodyclose // head closes it
	if err != nil {
		check, what, do := "reach", "there is no answer: "+d.explain(err), "start the server, and check name, port and firewall"
		if wrong, mend := explainTLS(err); wrong != "" {
			check, what, do = "tls", wrong, mend
		}
		d.broken(check, what, "Intercom cannot send anything", do)
		return false
	}
	d.checkTLS(head.TLS)
	switch status := head.StatusCode; {
	case status == http.StatusOK:
		d.ok("head", "HEAD is answered 200, so Intercom accepts the URL")
	case d.guarded("head", "HEAD", status, head.Header.Get("WWW-Authenticate")):
		return false
	case status >= 300 && status < 400:
		d.broken("redirect", fmt.Sprintf("HEAD is redirected (%s) to %s", statusText(status), head.Header.Get("Location")),
			"Intercom is not known to follow redirects", "enter the last URL in the Developer Hub")
	default:
		d.broken("head", "HEAD is answered "+statusText(status), "Intercom validates the URL with it, and does not save the URL",
			"check the path; intercom_webhook answers every HEAD with 200")
	}
	return true
}

// guarded reports whether an answer asks for a password, as intercom_webhook never does. Then it
// adds that something stands before it.
func (d *urlDoctor) guarded(check, what string, status int, challenge string) bool {
	if status != http.StatusUnauthorized || challenge == "" {
		return false
	}
	d.broken(check, what+" is answered 401 by something that asks for a password (WWW-Authenticate: "+challenge+"), not by intercom_webhook",
		"Intercom has no password to give, and cannot send anything",
		"let this path pass without one, as its proof is the signature: limit basic_auth to other paths, or whatever stands before Caddy; "+
			"to test what is behind it, give doctor the password with -H 'Authorization: Basic …'")
	return true
}

// head returns the answer to a HEAD, which has no body.
func (d *urlDoctor) head(ctx context.Context, target string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, target, nil)
	if err != nil {
		return nil, err
	}
	d.setHeaders(request)
	response, err := d.client.Do(request)
	if err != nil {
		return nil, err
	}
	return response, response.Body.Close()
}

func (d *urlDoctor) checkTLS(state *tls.ConnectionState) {
	if state == nil {
		d.warn("tls", "the URL is plain http", "everybody on the way can read the notifications", "use https in the Developer Hub; Caddy gets a certificate by itself")
		return
	}
	expires := state.PeerCertificates[0].NotAfter
	switch left := time.Until(expires); {
	case d.insecure:
		d.notChecked("tls", "--insecure was given, so the certificate was not verified", "leave it out for the endpoint that Intercom uses")
	case left < certificateWarning:
		d.warn("tls", fmt.Sprintf("the certificate ends on %s", localTime(expires)), "after that Intercom cannot send anything", "look in Caddy's log why it is not renewed")
	default:
		d.ok("tls", "%s, and the certificate is valid until %s", tls.VersionName(state.Version), localTime(expires))
	}
}

// judge adds what Intercom would make of an answer.
func (d *urlDoctor) judge(check, what string, r sendResult) {
	const retried = "Intercom tries once more after a minute, and then the notification is lost"
	took := duration(r.Seconds)
	answered := fmt.Sprintf("%s is answered %s in %s", what, statusText(r.Status), took)
	switch {
	case r.Error != "":
		d.broken(check, what+" gets no answer: "+r.Error, retried, "look in Caddy's log")
	case took > intercom.AnswerTimeout:
		d.broken(check, answered, "Intercom waits for 5s only; "+retried, "set timeout below 5s, or use queue")
	case r.Status == http.StatusOK && took > intercom.PriorityTimeout:
		d.warn(check, answered, "over 500ms the endpoint gets a lower priority", "use queue, or a faster backend")
	case r.Status == http.StatusOK:
		d.ok(check, "%s", answered)
	case r.ok():
		d.warn(check, answered, "one page of Intercom's docs says that only 200 is success", "answer 200")
	case r.Status < 400:
		d.broken(check, answered, "Intercom is not known to follow redirects; "+retried, "enter the URL that it redirects to in the Developer Hub")
	case r.Status == http.StatusUnauthorized:
		d.broken(check, answered, "the endpoint has another secret; "+retried, "compare client_secret with Basic information in the Developer Hub")
	case r.Status == http.StatusNotFound, r.Status == http.StatusMethodNotAllowed:
		d.broken(check, answered, "no intercom_webhook answers at this URL; "+retried, "check the path, a slash at the end too")
	case r.Status == http.StatusGone:
		d.broken(check, answered, "Intercom ends the subscription on 410", "never answer 410 to a notification")
	case r.Status == http.StatusTooManyRequests:
		d.broken(check, answered, "Intercom throttles all notifications for up to 2 hours, and then drops them", "never answer 429 to a notification")
	default:
		d.broken(check, answered, retried+"; after 1,000 errors in a row Intercom pauses, after 7 days of errors it suspends", "look in Caddy's log for the reason")
	}
}

// signedAs returns a sender of a ping with other signatures than the right one.
func (d *urlDoctor) signedAs(signatures ...string) sender {
	s := d.sender
	s.headers = http.Header{}
	maps.Copy(s.headers, d.headers)
	s.headers[intercom.HubSignature] = signatures
	return s
}

// checkRefused sends a ping that must be refused, with these signatures.
func (d *urlDoctor) checkRefused(ctx context.Context, check, how string, signatures ...string) {
	s := d.signedAs(signatures...)
	r := s.send(ctx)
	answered := "a ping " + how + " is answered " + statusText(r.Status)
	switch {
	case r.Error != "":
		d.broken(check, "a ping "+how+" gets no answer: "+r.Error, "Intercom counts it as an error", "look in Caddy's log")
	case r.Status == http.StatusUnauthorized:
		d.ok(check, "%s", answered)
	case r.ok():
		d.broken(check, answered, "anybody can send notifications", "check that intercom_webhook handles this URL, or that the backend verifies signatures")
	default:
		d.warn(check, answered, "intercom_webhook answers 401", "check that intercom_webhook handles this URL")
	}
}

// checkSlash looks at the URL with a slash more or less at its end.
func (d *urlDoctor) checkSlash(ctx context.Context) {
	u, err := url.Parse(d.url)
	if err != nil {
		return
	}
	if u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), ""; u.String() == d.url {
		u.Path += "/"
	}
	if u.Path == "" {
		return // the same request as with a slash
	}
	head, err := d.head(ctx, u.String()) //nolint:bodyclose // head closes it
	if err != nil {
		return
	}
	s := d.signedAs()
	s.url = u.String()
	unsigned := s.send(ctx)
	switch {
	case head.StatusCode == http.StatusOK && unsigned.ok():
		d.broken("slash", fmt.Sprintf("%s answers %s to everything", u, statusText(unsigned.Status)),
			"with this mistake in the URL, Intercom finds it valid, and each notification is lost", "end the site with `respond 404`")
	case head.StatusCode == http.StatusOK && unsigned.Status == http.StatusUnauthorized:
		d.ok("slash", "%s is the endpoint, too", u)
	case head.StatusCode == http.StatusOK:
		answer := "is answered " + statusText(unsigned.Status)
		if unsigned.Error != "" {
			answer = "gets no answer"
		}
		d.broken("slash", fmt.Sprintf("HEAD of %s is answered 200, but a POST %s", u, answer),
			"with this mistake in the URL, Intercom finds it valid, and every notification fails", "end the site with `respond 404`")
	default:
		d.ok("slash", "%s is answered %s, so Intercom does not accept it by mistake", u, statusText(head.StatusCode))
	}
}

// watch connects to the stream of notifications, and returns a function that waits for our ping
// in it.
func (d *urlDoctor) watch(ctx context.Context) func() (*adminapi.Request, error) {
	ctx, cancel := context.WithCancel(ctx)
	limit := time.AfterFunc(adminTimeout, cancel)
	query := url.Values{"topic": {intercom.TopicPing}, "request": {"true"}}
	response, failed := d.admin.do(ctx, http.MethodGet, adminapi.StreamPath, query) //nolint:bodyclose // closed by the returned function
	if !limit.Stop() {
		failed = errors.New("the admin endpoint does not answer")
	}
	return func() (*adminapi.Request, error) {
		defer cancel()
		if failed != nil {
			return nil, failed
		}
		defer response.Body.Close()
		limit.Reset(adminTimeout)
		decoder := json.NewDecoder(response.Body)
		for {
			var line adminapi.Event
			switch err := decoder.Decode(&line); {
			case err != nil && ctx.Err() != nil:
				return nil, errors.New("the Caddy of the admin endpoint did not see the ping: it is another Caddy, or its answer did not come from intercom_webhook")
			case err != nil:
				return nil, errors.New("the stream of notifications ended early")
			case line.Request != nil && bytes.Equal(line.Request.BodyBytes(), d.body):
				return line.Request, nil
			}
		}
	}
}

// checkAddress adds the address that the ping came from, as the endpoint saw it.
func (d *urlDoctor) checkAddress(seen func() (*adminapi.Request, error), ping sendResult) {
	request, err := seen()
	switch {
	case err != nil && ping.ok():
		d.notChecked("address", "the address that the ping was judged by is known to Caddy's admin endpoint only: "+err.Error(), "")
	case err != nil:
	case request.ClientIP != "":
		d.ok("address", "the ping was judged by the address %s", request.ClientIP)
	default:
		d.ok("address", "the ping came from the address %s", request.RemoteAddr)
	}
}
