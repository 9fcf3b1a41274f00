package jobdb

import "testing"

var probeBehaviours = []behaviour{
	{"a probe changes no job", on(func(t *testing.T, d database, i *instance) {
		i.mustStore(t, newJobs(2)...)
		before, err := i.Changes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := i.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if after, err := i.Changes(t.Context()); err != nil || after != before {
			t.Errorf("changes were %d and are %d (%v)", before, after, err)
		}
		if rows := d.rows(t); len(rows) != 2 {
			t.Errorf("there are %d jobs", len(rows))
		}
	})},
}
