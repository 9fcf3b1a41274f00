//go:build postgres

package integration

import "testing"

func TestPostgresFiltersAndFinEvents(t *testing.T) {
	queues := map[string]func(string) string{"in PostgreSQL": func(string) string {
		return "queue postgres " + newPgDatabase(t, pgShared).url() + " {\nmax_attempts 1\n}"
	}}
	testFilters(t, queues)
	testFinEvents(t, queues)
}
