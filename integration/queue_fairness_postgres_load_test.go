//go:build load && postgres

package integration

import "testing"

func TestLoadOfOneWorkspaceOnPostgres(t *testing.T) {
	testLoadOfOneWorkspace(t, func(upstream string) []*process {
		config := newPgDatabase(t, pgShared).queued("route * to "+upstream, "")
		return []*process{startPgProcess(t, config), startPgProcess(t, config)}
	})
}
