package intercomwebhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/envelope"
	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// withCopies returns a handler without a queue that has these copies.
func withCopies(t *testing.T, copies string) *Handler {
	t.Helper()
	h := provisioned(t, `[{"match":[{"intercom_topic":["a.*"]}],"handle":[{"handler":"static_response"}]}]`)
	if err := json.Unmarshal([]byte(copies), &h.Copies); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	if h.router.copies, err = provisionCopies(ctx, h.Copies, laneSet{"a": true}, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSamples(t *testing.T) {
	const ids = 20_000
	for _, percent := range []float64{0.5, 10, 50, 99.9} {
		in := 0
		for i := range ids {
			id := fmt.Sprintf("notif_%d", i)
			sampled := inSample(id, percent)
			if sampled {
				in++
			}
			if sampled != inSample(id, percent) || sampled && !inSample(id, percent+0.1) {
				t.Errorf("%s is in the sample of %v%% now and then, or not in that of more", id, percent)
			}
		}
		want := ids * percent / 100
		if math.Abs(float64(in)-want) > 5*math.Sqrt(want)+5 {
			t.Errorf("%d of %d are %v%%, want about %v", in, ids, percent, want)
		}
	}
	if !inSample("", 0.001) {
		t.Error("a notification without an id is not in the sample")
	}
	for i := range 1000 {
		if !inSample(fmt.Sprint(i), 100) {
			t.Error("100% are not all")
		}
	}
}

func TestNotificationsGoToTheCopiesThatTheyFit(t *testing.T) {
	h := withCopies(t, `[
		{"match":[{"intercom_topic":["*"]}]},
		{"lane":"vip","match":[{"intercom_topic":["a.*","b"],"intercom_workspace":["tulip4"]}]},
		{"match":[{"intercom_topic":["ping"]}]},
		{"lane":"broken","match":[{"expression":"{http.request.header.X}.size() > 1000 || int({http.request.uri.path}) > 1"}]},
		{"match":[{"intercom_topic":["a.b"]}],"sample":0.0000001}
	]`)
	want := []Lane{{"a", false}, {"copy-default", true}, {"vip", true}, {"copy-ping", true}, {"broken", true}, {"copy-a-b", true}}
	if got := h.router.lanes(); !slices.Equal(got, want) {
		t.Errorf("lanes %v, want %v", got, want)
	}
	for _, c := range []struct {
		topic, workspace, id string
		want                 []string
	}{
		{"a.b", "tulip4", "1", []string{"copy-default", "vip"}},
		{"a.b", "tulip4", "", []string{"copy-default", "vip", "copy-a-b"}},
		{"a.b", "rose5", "1", []string{"copy-default"}},
		{"c", "tulip4", "1", []string{"copy-default"}}, // no route takes it
		{"ping", "tulip4", "", []string{"copy-ping"}},
	} {
		r := withQueue(h, nil).prepare(httptest.NewRequest(http.MethodPost, "/intercom", nil))
		tag := newTag(r)
		tag.setNotification(r.Header, envelope.Envelope{Topic: c.topic, AppID: c.workspace, ID: c.id})
		if got := h.router.copiesOf(r, tag); !slices.Equal(got, c.want) {
			t.Errorf("%+v goes to %q", c, got)
		}
	}
}

func TestACopyIsSignedAnew(t *testing.T) {
	t.Setenv("STAGING_SECRET", "another-secret")
	var got http.Header
	h := withCopies(t, `[{"lane":"staging","resign":"{env.STAGING_SECRET}","match":[{"intercom_topic":["b"]}]},{"lane":"plain"}]`)
	catch := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		got = r.Header.Clone()
		w.WriteHeader(http.StatusOK)
		return nil
	})
	for i := range h.router.copies {
		h.router.copies[i].handler = catch
	}
	body := []byte(`{"topic":"ping"}`)
	mac := hmac.New(sha1.New, []byte("another-secret"))
	mac.Write(body)
	for lane, want := range map[string]string{"staging": "sha1=" + hex.EncodeToString(mac.Sum(nil)), "plain": "sha1=0123"} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header = http.Header{"X-Hub-Signature": {"sha1=0123"}, "X-Body-Signature": {"4567"}}
		found, deliver := withQueue(h, nil).prepareDelivery(r, body, Attempt{Number: 1}, lane)
		if d := deliver(); found != lane || d.Err != nil {
			t.Errorf("%s: lane %q, %+v", lane, found, d)
		}
		if signatures := got["X-Hub-Signature"]; !slices.Equal(signatures, []string{want}) || (len(got["X-Body-Signature"]) > 0) != (lane == "plain") {
			t.Errorf("%s: signatures %q, want %q", lane, signatures, want)
		}
	}
	event := []byte(`{"event_name":"fin_replied"}`)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header = http.Header{"X-Fin-Agent-Api-Webhook-Signature": {"sha256=0123"}}
	_, deliver := withQueue(h, nil).prepareDelivery(r, event, Attempt{Number: 1}, "staging")
	if d := deliver(); d.Err != nil || got.Get("X-Hub-Signature") != "" || got.Get("X-Fin-Agent-Api-Webhook-Signature") != sign(signature.Fin, "another-secret", string(event)) {
		t.Errorf("an event of the Fin Agent API: %+v, %q", d, got)
	}
	config, err := json.Marshal(h)
	if err != nil || strings.Contains(string(config), "another-secret") || !strings.Contains(string(config), "{env.STAGING_SECRET}") {
		t.Errorf("the config is %s (%v)", config, err)
	}
}

// storedQueue is a Queue that keeps what is stored.
type storedQueue struct {
	Queue
	stored  []Notification
	answers Stored
}

func (q *storedQueue) Store(_ *http.Request, n Notification) (Stored, error) {
	q.stored = append(q.stored, n)
	return q.answers, nil
}

// A ping may be stored only because of its copies.
func TestAPingThatNoRouteTakesIsStoredForItsCopiesAlone(t *testing.T) {
	queue := new(storedQueue)
	s := withQueue(withCopies(t, `[{"match":[{"intercom_topic":["ping"]}]}]`), queue)
	r := s.prepare(httptest.NewRequest(http.MethodPost, "/", nil))
	tag := newTag(r)
	tag.setNotification(r.Header, envelope.Envelope{Topic: "ping"})
	if !s.router.takesPing(r, tag) {
		t.Error("the copy does not take it")
	}
	s.store(r, tag, []byte(`{"topic":"ping"}`))
	if len(queue.stored) != 1 || !queue.stored[0].CopiesOnly || !slices.Equal(queue.stored[0].Copies, []string{"copy-ping"}) {
		t.Errorf("stored %+v", queue.stored)
	}
	_, deliver := s.prepareDelivery(httptest.NewRequest(http.MethodPost, "/", nil), []byte(`{"topic":"ping"}`), Attempt{Number: 1}, "gone")
	if d := deliver(); !errors.Is(d.Err, ErrUnrouted) {
		t.Errorf("its copy, whose lane is gone, became %+v", d)
	}
}

func TestBadCopiesAreRefused(t *testing.T) {
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	for copies, want := range map[string]string{
		`[{"sample":-1}]`:                         "copy 0: sample must be over 0% and at most 100%, not -1%",
		`[{"sample":0}]`:                          "copy 0: sample must be over 0% and at most 100%, not 0%",
		`[{"sample":101}]`:                        "copy 0: sample must be",
		`[{"resign":"{env.NO_SUCH_SECRET}"}]`:     "copy 0: resign: no value for {env.NO_SUCH_SECRET}",
		`[{"resign":" "}]`:                        "copy 0: resign is empty",
		`[{"lane":"a"}]`:                          `copy 0: another route or copy already has the lane "a"`,
		`[{"lane":"x"},{"lane":"x"}]`:             `copy 1: another route or copy already has the lane "x"`,
		`[{},{"match":[{}]}]`:                     `copy 1: another route or copy already has the lane "copy-route"`,
		`[{"lane":"X"}]`:                          "copy 0: lane",
		`[{"match":[{"intercom_topic":["*a"]}]}]`: "copy 0:",
	} {
		var configured []Copy
		if err := json.Unmarshal([]byte(copies), &configured); err != nil {
			t.Fatal(err)
		}
		if _, err := provisionCopies(ctx, configured, laneSet{"a": true}, zap.NewNop()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", copies, err, want)
		}
	}
	h := &Handler{Copies: make([]Copy, 1)}
	if _, err := newStorer(ctx, h, nil, nil); !errors.Is(err, errCopyWithoutQueue) {
		t.Errorf("copies without a queue: %v", err)
	}
}
