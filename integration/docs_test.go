package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// block is one of a markdown file that is fenced by ```.
type block struct {
	at   string // file and heading
	kind string // what stands behind the ```
	text string
}

// page is a markdown file.
type page struct {
	path     string // from here
	blocks   []block
	prose    string   // all that is in no block
	headings []string // the text of each
}

// docsPages returns the markdown files in the repository's root and in the folders that have
// some.
func docsPages(t *testing.T) []page {
	t.Helper()
	var pages []page
	for _, file := range filesLike(t, "../*.md", "../docs/*.md", "../bench/*.md", "../contrib/*.md", "../examples/*.md") {
		pages = append(pages, readPage(t, file))
	}
	return pages
}

// filesLike returns the files of some patterns, of which each has one.
func filesLike(t *testing.T, patterns ...string) (all []string) {
	t.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no file, error %v", pattern, err)
		}
		all = append(all, files...)
	}
	return all
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func readPage(t *testing.T, file string) page {
	t.Helper()
	content := readFile(t, file)
	p := page{path: file}
	heading := ""
	var open *block
	for line := range strings.Lines(content) {
		fence, fenced := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case fenced && open == nil:
			open = &block{at: filepath.Base(file) + ", " + heading, kind: fence}
		case fenced:
			p.blocks, open = append(p.blocks, *open), nil
		case open != nil:
			open.text += line
		default:
			p.prose += line
			if strings.HasPrefix(line, "#") {
				heading = strings.Trim(line, "# \n")
				p.headings = append(p.headings, heading)
			}
		}
	}
	if open != nil {
		t.Errorf("%s: a block is not closed", open.at)
	}
	return p
}

// docsOf returns the blocks of a kind.
func docsOf(t *testing.T, kind string) []block {
	t.Helper()
	var some []block
	for _, page := range docsPages(t) {
		for _, b := range page.blocks {
			if b.kind == kind {
				some = append(some, b)
			}
		}
	}
	if len(some) == 0 {
		t.Fatalf("the docs have no block of %s", kind)
	}
	return some
}

var (
	docsSite      = regexp.MustCompile(`(?m)^((?:https?://)?[a-z][a-z0-9.-]*(?::\d+)?) \{$`)
	docsVariable  = regexp.MustCompile(`\{env\.([A-Z0-9_]+)\}`)
	docsFile      = regexp.MustCompile(`\{file\.[^}]+\}`)
	passwordHash  = "$2a$04$" + strings.Repeat("a", 53) // of no password that anybody knows
	docsVariables = map[string]string{
		"OPS_PASSWORD_HASH": passwordHash,
		"DATABASE_URL":      "postgres://postgres@127.0.0.1:5432/postgres",
	}
)

// TestCaddyfilesOfTheDocs loads each block that is marked as a Caddyfile, so that it must
// be a whole one; grammar is not marked. What does not need a database of its own is run.
// Then there must be no URL that Intercom finds valid, though what it sends there
// would be lost.
func TestCaddyfilesOfTheDocs(t *testing.T) {
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, b := range docsOf(t, "caddyfile") {
		t.Run(b.at, func(t *testing.T) {
			for _, variable := range docsVariable.FindAllStringSubmatch(b.text, -1) {
				value, ok := docsVariables[variable[1]]
				if !ok {
					value = secret
				}
				t.Setenv(variable[1], value)
			}
			g := newGateway(t)
			t.Setenv("XDG_DATA_HOME", g.dir)
			config := docsFile.ReplaceAllString(b.text, "{file."+secrets+"}")
			config = docsSite.ReplaceAllString(config, "http://hooks.example.com:"+g.port+" {\n\tbind 127.0.0.1")
			options := "\tadmin off\n\tpersist_config off\n\tstorage file_system " + g.dir + "\n\tgrace_period 2s\n"
			if rest, ok := strings.CutPrefix(config, "{\n"); ok {
				config = "{\n" + options + rest
			} else {
				config = "{\n" + options + "}\n" + config
			}
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
			if err != nil {
				t.Fatalf("no whole Caddyfile: %v\n%s", err, config)
			}
			for _, warning := range warnings {
				if !strings.Contains(warning.Message, "not formatted") {
					t.Errorf("warning: %s", warning.String())
				}
			}
			if strings.Contains(config, "queue postgres") {
				cfg := new(caddy.Config)
				if err := caddy.StrictUnmarshalJSON(adapted, cfg); err != nil {
					t.Fatal(err)
				}
				if err := caddy.Validate(cfg); err != nil {
					t.Errorf("it does not load: %v", err)
				}
				return
			}
			if err := g.run(adapted); err != nil {
				t.Fatalf("it does not load: %v", err)
			}
			if !strings.Contains(config, "intercom_webhook") {
				return
			}
			asks := func(method, path string) int {
				answer, err := g.do(func() (*http.Request, error) {
					r, err := http.NewRequest(method, "http://127.0.0.1:"+g.port+path, bytes.NewReader(body))
					if err == nil {
						r.Host = "hooks.example.com:" + g.port
					}
					return r, err
				})
				if err != nil {
					t.Fatal(err)
				}
				return answer.status
			}
			if got := asks(http.MethodHead, "/intercom"); got != http.StatusOK {
				t.Errorf("Intercom's own URL is validated with %d, want 200", got)
			}
			for _, path := range []string{"/intercom", "/intercom/", "/"} {
				validated, answered := asks(http.MethodHead, path), asks(http.MethodPost, path)
				// from here, which is not allowed
				if validated == http.StatusOK && answered != http.StatusForbidden {
					t.Errorf("%s is validated, and what is sent there is answered with %d", path, answered)
				}
			}
		})
	}
}

// In the README's main example, the mistake that is easily made in Intercom's form is
// found when it is made.
func TestMainExampleAnswersOnlyItsURL(t *testing.T) {
	caddyfiles := docsOf(t, "caddyfile")
	main := caddyfiles[slices.IndexFunc(caddyfiles, func(b block) bool { return strings.HasPrefix(b.at, "README.md") })]
	if !strings.HasSuffix(main.text, "\n\trespond 404\n}\n") {
		t.Errorf("%s does not end with respond 404:\n%s", main.at, main.text)
	}
	t.Setenv("INTERCOM_CLIENT_SECRET", secret)
	g := newGateway(t)
	t.Setenv("XDG_DATA_HOME", g.dir)
	config := docsSite.ReplaceAllString(main.text, "http://:"+g.port+" {\n\tbind 127.0.0.1")
	config = strings.Replace(config, "\t\troute ", "\t\tallow static 127.0.0.1\n\t\troute ", 1)
	config = "{\n\tadmin off\n\tpersist_config off\n\tstorage file_system " + g.dir + "\n}\n" +
		regexp.MustCompile(`[a-z0-9-]+:9000`).ReplaceAllLiteralString(config, answering(t, 200).address)
	// an upstream of a route must not be there twice
	lines := strings.Split(config, "\n")
	for i, line := range lines {
		words := strings.Fields(line)
		if len(words) > 0 && words[0] == "route" {
			lines[i] = strings.Join(slices.Compact(words), " ")
		}
	}
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.Join(lines, "\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.run(adapted); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/intercom": 200, "/intercom/": 404, "/": 404} {
		for name, m := range map[string]message{"validation": {method: http.MethodHead}, "notification": good} {
			if got := g.send(m.to(path)); got.status != want || got.body != "" {
				t.Errorf("%s at %s: answer %d %q, want %d", name, path, got.status, got.body, want)
			}
		}
	}
}

// TestFirstScreen compares what the README asks for with what the module needs.
func TestFirstScreen(t *testing.T) {
	readme := readFile(t, "../README.md")
	module := readFile(t, "../go.mod")
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(module)[1]
	name := regexp.MustCompile(`(?m)^module (\S+)`).FindStringSubmatch(module)[1]
	if lines := strings.Count(readme, "\n"); lines >= 150 {
		t.Errorf("the README has %d lines; a newcomer reads less than 150: put the rest into docs/", lines)
	}
	screen, _, _ := strings.Cut(readme, "\n## Building")
	for _, want := range []string{
		"[Go](https://go.dev/dl/) " + version + " or newer",
		"git clone https://" + name + "\ncd " + filepath.Base(name) + "\ngo run ./cmd/caddy run --config example.Caddyfile\n",
		"http://localhost:8080/queue",
	} {
		if !strings.Contains(screen, want) {
			t.Errorf("the first screen does not have: %s", want)
		}
	}
}

var (
	docsLink     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	docsLinkText = regexp.MustCompile(`\[([^\]]+)\]\([^)]*\)`)
	docsCodeSpan = regexp.MustCompile("`[^`\n]*`")
	docsNoAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchor returns the name that GitHub gives a heading.
func anchor(heading string) string {
	text := docsLinkText.ReplaceAllString(heading, "$1")
	return strings.ReplaceAll(docsNoAnchor.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
}

// anchors returns the names of all headings of a page. GitHub numbers those that are alike.
func (p page) anchors() map[string]bool {
	names := make(map[string]bool)
	count := make(map[string]int)
	for _, heading := range p.headings {
		name := anchor(heading)
		count[name]++
		if n := count[name]; n > 1 {
			name = fmt.Sprintf("%s-%d", name, n-1)
		}
		names[name] = true
	}
	return names
}

// TestLinksOfTheDocs follows each link from one file of the repository to another, and to
// a heading. Each page must be linked from the index of the docs, which the README links.
func TestLinksOfTheDocs(t *testing.T) {
	pages := make(map[string]page)
	for _, p := range docsPages(t) {
		pages[p.path] = p
	}
	indexed := map[string]bool{"../README.md": true}
	for _, from := range pages {
		for _, link := range docsLink.FindAllStringSubmatch(docsCodeSpan.ReplaceAllString(from.prose, ""), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			file, name, hasAnchor := strings.Cut(link[1], "#")
			path := from.path
			if file != "" {
				path = filepath.Join(filepath.Dir(from.path), file)
			}
			if from.path == "../docs/README.md" || path == "../docs/README.md" && from.path == "../README.md" {
				indexed[path] = true
			}
			to, isPage := pages[path]
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", from.path, link[1])
			} else if hasAnchor && (!isPage || !to.anchors()[name]) {
				t.Errorf("%s: the link to %s leads to no heading", from.path, link[1])
			}
		}
	}
	for path := range pages {
		if !indexed[path] {
			t.Errorf("%s is not linked from the index of the docs", path)
		}
	}
}

// docsMention is the way from the root of the repository to a page or to one of its headings, as
// help, messages, alerts and configs name them.
var docsMention = regexp.MustCompile(`\bdocs/([a-z]+\.md)(?:#([\w-]+))?`)

// TestMentionsOfTheDocs follows what other files than pages say of the docs.
func TestMentionsOfTheDocs(t *testing.T) {
	found := 0
	err := filepath.WalkDir("..", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(path, "../.git/") || filepath.Ext(path) == ".md" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, mention := range docsMention.FindAllStringSubmatch(string(content), -1) {
			found++
			if _, err := os.Stat("../docs/" + mention[1]); err != nil {
				t.Errorf("%s: %s is not there", path, mention[0])
			} else if mention[2] != "" && !readPage(t, "../docs/"+mention[1]).anchors()[mention[2]] {
				t.Errorf("%s: %s leads to no heading", path, mention[0])
			}
		}
		return nil
	})
	if err != nil || found < 20 {
		t.Errorf("found %d mentions of the docs, error %v", found, err)
	}
}

var (
	docsLocks = regexp.MustCompile(`--vacuum|whole=true|VACUUM \(?FULL|VACUUM[;"]|REINDEX|CLUSTER|LOCK TABLE`)
	docsPrice = regexp.MustCompile(`can\s+be\s+stored|do not stop storing|stopped storing`)
)

// Advice that stops storing, because it locks a table or the file, must say so in the same
// paragraph.
func TestAdviceThatLocksSaysItsPrice(t *testing.T) {
	found := 0
	for _, file := range filesLike(t, "../*.md", "../docs/*.md", "../contrib/*/*", "../examples/*", "../internal/cli/help/*.txt", "../internal/cli/*.go", "../queue/*/*.go", "../queue/internal/*/*.go") {
		text := readFile(t, file)
		paragraphs := strings.Split(text, "\n\n")
		if filepath.Ext(file) == ".go" { // there, those that a person reads are strings of one line
			paragraphs = slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
				return strings.HasSuffix(file, "_test.go") || !strings.Contains(line, "--vacuum ")
			})
		}
		for _, paragraph := range paragraphs {
			if advice := docsLocks.FindString(paragraph); advice != "" {
				if found++; !docsPrice.MatchString(paragraph) {
					t.Errorf("%s: advises %s, and does not say that nothing can be stored meanwhile:\n%s", file, advice, paragraph)
				}
			}
		}
	}
	if found < 6 {
		t.Errorf("%d advices are found: the test does not see what it should", found)
	}
}

// What is copied from a page or an example must not send a password in clear.
func TestPostgresURLsOfTheDocsVerify(t *testing.T) {
	found := 0
	for _, file := range filesLike(t, "../*.md", "../docs/*.md", "../examples/*", "../contrib/*/*") {
		for _, url := range regexp.MustCompile("postgres(ql)?://[^\\s`]+").FindAllString(readFile(t, file), -1) {
			if found++; !strings.Contains(url, "sslmode=verify-full") {
				t.Errorf("%s: %s", file, url)
			}
		}
	}
	if found < 4 {
		t.Errorf("found only %d URLs", found)
	}
}

func TestAnchorsAreGitHubs(t *testing.T) {
	for heading, want := range map[string]string{
		"Intercom's addresses":                 "intercoms-addresses",
		"The matcher `intercom_topic`":         "the-matcher-intercom_topic",
		"Never lose a notification":            "never-lose-a-notification",
		"Looking, and trying again":            "looking-and-trying-again",
		"[0.1.0](https://example.com) - today": "010---today",
	} {
		if got := anchor(heading); got != want {
			t.Errorf("%s: %s, want %s", heading, got, want)
		}
	}
}
