package intercomwebhook

import (
	"fmt"
	"testing"
)

func TestWorkspaces(t *testing.T) {
	for _, id := range []string{"tulip4", "a-B_9", "0"} {
		if err := checkWorkspace(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", " ", "a b", "a.b", "*", "a*", "é", "a\n", "{env.X}", fmt.Sprintf("%0256d", 0)} {
		if checkWorkspace(id) == nil {
			t.Errorf("%q is accepted", id)
		}
	}
}
