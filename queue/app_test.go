package queue

import "testing"

func TestAnEndpointIsAdoptedByOneHandler(t *testing.T) {
	handler := func(database, name string, adopt ...string) *attachment {
		a := newTestAttachment(nil, Options{Name: name, Adopt: adopt}, &fakeTarget{})
		a.location = location{key: database, name: database}
		return a
	}
	for _, c := range []struct {
		name   string
		queues []*attachment
		want   string
	}{
		{"ok/each its own", []*attachment{handler("one", "a", "old"), handler("one", "b", "older")}, ""},
		{"ok/in two databases", []*attachment{handler("one", "a", "old"), handler("two", "b", "old")}, ""},
		{"ok/one handler on two ports", []*attachment{handler("one", "a", "old"), handler("one", "a", "old")}, ""},
		{"fail/both the same", []*attachment{handler("one", "b", "old"), handler("one", "a", "older", "old")},
			`queue one: the handlers "a" and "b" both adopt "old": let one of them adopt it`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if _, err := (&app{queues: c.queues}).byDatabase(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}

func TestAdoptedNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		own   string
		adopt []string
		want  string
	}{
		{"ok/others", "crm", []string{"intercom", "old"}, ""},
		{"fail/malformed", "crm", []string{"Old"}, `name "Old": give lower-case letters and digits, joined by single - or _, 32 at most`},
		{"fail/twice", "crm", []string{"old", "old"}, "adopt old: the name is given twice"},
		{"fail/its own", "crm", []string{"crm"}, "adopt crm: this is the queue's own name; name only endpoints that no handler has any more"},
		{"fail/its own by default", "", []string{"intercom"}, "adopt intercom: this is the queue's own name; name only endpoints that no handler has any more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := Options{Name: c.own, Adopt: c.adopt}
			options.setDefaults()
			got := ""
			if err := options.check(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}
