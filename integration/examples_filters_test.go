package integration

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/cli"
)

// sendSample runs `send`, as a person who tries a condition, and expects 200.
func (e *example) sendSample(name string, sets ...string) {
	e.t.Helper()
	args := []string{"send", name, "http://127.0.0.1:" + e.port + "/intercom", "--header", "Host: " + e.host()}
	for _, set := range sets {
		args = append(args, "--set", set)
	}
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "intercom-webhook", SilenceErrors: true, SilenceUsage: true}
	cli.AddCommands(cmd)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(e.t.Context()); err != nil {
		e.t.Fatalf("%q: %v\n%s", args, err, out.String())
	}
}

// TestExampleWithFilters tries each line of the example.
func TestExampleWithFilters(t *testing.T) {
	e := startExample(t, "filters", map[string]string{"INTERCOM_FIN_SECRET": finSecret})
	const (
		author = "data.item.conversation_parts.conversation_parts.0.author.id="
		part   = "data.item.conversation_parts.conversation_parts.0.id="
	)
	tomorrow, yesterday := time.Now().Add(24*time.Hour).Unix(), time.Now().Add(-24*time.Hour).Unix()
	cases := []struct {
		to   string // empty: nobody gets it
		name string
		sets []string
	}{
		{"", "conversation.admin.replied", []string{author + "4410001"}},
		{"", "conversation.admin.closed", []string{"data.item.conversation_parts.conversation_parts.1.author.id=4410001"}},
		{"replies", "conversation.admin.replied", []string{author + "7"}},
		{"", "conversation.operator.replied", nil}, // its twin
		{"replies", "conversation.operator.replied", []string{part + "another"}},
		{"closed", "conversation.admin.closed", []string{"data.item.state=closed", author + "7"}},
		{"archive", "conversation.admin.closed", []string{"data.item.state=snoozed", author + "7"}},
		{"vip", "conversation.user.replied", []string{`data.item.tags.tags=[{"name":"new"},{"name":"vip"}]`}},
		{"archive", "conversation.user.replied", []string{`data.item.tags.tags=[{"name":"VIP"}]`}},
		{"urgent", "conversation.user.created", []string{"data.item.priority=priority"}},
		{"urgent", "ticket.created", []string{"data.item.priority=priority"}},
		{"archive", "conversation.user.created", []string{"data.item.priority=not_priority"}},
		{"", "content_stat.news_item", nil},
		{"approvals", "procedure.hitl_notification.created", []string{fmt.Sprintf("data.item.expires_at=%d", tomorrow)}},
		{"", "procedure.hitl_notification.created", []string{fmt.Sprintf("data.item.expires_at=%d", yesterday)}},
		{"archive", "procedure.hitl_notification.created", []string{"data.item.expires_at=null"}},
		{"", "fin_replied", []string{"status=replying"}},
		{"archive", "fin_replied", []string{"status=awaiting_user_reply"}},
	}
	mark := func(i int) string { return fmt.Sprintf("case-%02d", i) }
	got := func() (all []string) {
		for host, b := range e.backends {
			for _, r := range b.all() {
				for i := range cases {
					if bytes.Contains(r.body, []byte(mark(i))) {
						all = append(all, fmt.Sprint(i, " ", host))
					}
				}
			}
		}
		slices.Sort(all)
		return all
	}
	var want []string
	for i, c := range cases {
		e.sendSample(c.name, append(c.sets, "links="+mark(i))...)
		if c.to != "" {
			want = append(want, fmt.Sprint(i, " ", c.to))
		}
	}
	slices.Sort(want)
	within(t, longPatience, "all are delivered", func() bool { return len(got()) >= len(want) })
	if got := got(); !slices.Equal(got, want) {
		t.Errorf("delivered, by the number of the case:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
