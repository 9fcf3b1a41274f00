package secrets

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// texts returns the secrets in use.
func (s *Secrets) texts() []string {
	var all []string
	for _, source := range s.sources {
		all = append(all, source.secrets...)
	}
	return all
}

func TestNew(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	for name, content := range map[string]string{
		"secret": "from-a-file\n",
		"empty":  "\n",
		"lines":  "\ufeff# of 2026\r\n\n  first \r\n\t\n #third\n second\u00a0",
		"blank":  "first\n\n2nd\tof 2026\n",
		"most":   strings.Repeat("x\n", 100),
		"many":   strings.Repeat("x\n", 101),
		"large":  "x" + strings.Repeat("\n", 1<<20),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SECRET", "\t from-the-environment\r\n\n")
	t.Setenv("INSIDE", "private\u200bprivate")
	t.Setenv("BLANK", " ")
	t.Setenv("EMPTY", "")

	for name, tc := range map[string]struct {
		configured []string
		want       []string
		literals   int    // warned of
		err        string // part of it
	}{
		"ok/variable and file": {
			configured: []string{"{env.SECRET}", "{file." + file + "}"},
			want:       []string{"from-the-environment", "from-a-file"},
		},
		"ok/literal": {
			configured: []string{"literal", "{env.SECRET}"},
			want:       []string{"literal", "from-the-environment"},
			literals:   1,
		},
		"ok/several in a file": {
			configured: []string{"{file." + dir + "/lines}", "{env.SECRET}"},
			want:       []string{"first", "second", "from-the-environment"},
		},
		"ok/most in a file": {configured: []string{"{file." + dir + "/most}"}, want: slices.Repeat([]string{"x"}, 100)},
		"ok/file and more": {
			configured: []string{" {file." + file + "}! "},
			want:       []string{"from-a-file!"},
		},
		"fail/none":                    {err: "client_secret is missing"},
		"fail/empty":                   {configured: []string{"a", ""}, err: "client_secret 2 is empty"},
		"fail/blank":                   {configured: []string{"{env.BLANK}"}, err: "client_secret 1 is empty"},
		"fail/blank inside":            {configured: []string{"a", "private and more"}, err: "client_secret 2: a blank or an invisible character"},
		"fail/invisible inside":        {configured: []string{"{env.INSIDE}"}, err: "client_secret 1: a blank or an invisible character"},
		"fail/blank inside of a line":  {configured: []string{"{file." + dir + "/blank}"}, err: "client_secret 1: line 3: a blank or an invisible character"},
		"fail/unset variable":          {configured: []string{"{env.NO_SUCH_VARIABLE}"}, err: "no value for {env.NO_SUCH_VARIABLE}: "},
		"fail/unset beside a literal":  {configured: []string{"x{env.NO_SUCH_VARIABLE}"}, err: "no value for {env.NO_SUCH_VARIABLE}: "},
		"fail/empty variable":          {configured: []string{"{env.EMPTY}"}, err: "no value for {env.EMPTY}: "},
		"fail/missing file":            {configured: []string{"{file." + dir + "/none}"}, err: "client_secret 1: stat " + dir + "/none: no such file"},
		"fail/missing file and more":   {configured: []string{"{file." + dir + "/none}!"}, err: "create the file"},
		"fail/empty file":              {configured: []string{"a", "{file." + dir + "/empty}"}, err: "client_secret 2: the file has no secret"},
		"fail/many in a file":          {configured: []string{"{file." + dir + "/many}"}, err: "more than 100 lines"},
		"fail/large file":              {configured: []string{"{file." + dir + "/large}"}, err: "larger than 1048576 bytes"},
		"fail/directory":               {configured: []string{"{file." + dir + "}"}, err: "not a regular file"},
		"fail/literal in curly braces": {configured: []string{"a{private}b"}, err: "client_secret 1: no value for a placeholder"},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			inUse := 0
			s, err := New("client_secret", tc.configured, zap.New(core), func(n int) { inUse = n })
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "private") {
					t.Errorf("error %v does not say %q, or too much", err, tc.err)
				}
				return
			}
			if err != nil || !slices.Equal(s.texts(), tc.want) || len(s.Keys()) != len(tc.want) || inUse != len(tc.want) {
				t.Fatalf("got %+v, %v; want %q", s, err, tc.want)
			}
			if logs.Len() != tc.literals {
				t.Errorf("%d warnings, want %d", logs.Len(), tc.literals)
			}
			for _, entry := range logs.All() {
				if strings.Contains(entry.Message, "literal") || len(entry.Context) != 1 {
					t.Errorf("the warning tells the secret: %v", entry)
				}
			}
		})
	}
}
