package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/caddyserver/certmagic"

	_ "github.com/caddy-intercom/caddy-intercom-webhook/ipranges"
)

// printIPRanges runs "caddy intercom-webhook ip-ranges".
func printIPRanges(t *testing.T, args ...string) (stdout string, code int, err error) {
	t.Helper()
	stdout, _, code, err = runCommand(t, nil, append([]string{"ip-ranges"}, args...)...)
	return stdout, code, err
}

// configWithStorage returns the file of a config, and the storage that it configures.
func configWithStorage(t *testing.T) (file string, storage certmagic.Storage) {
	t.Helper()
	dir := t.TempDir()
	return writeFile(t, fmt.Sprintf(`{"storage":{"module":"file_system","root":%q}}`, dir)), &certmagic.FileStorage{Path: dir}
}

const compiledInUS = `# us: 6 ranges, as of 2026-06-29T00:00:00Z, source: compiled in
34.197.76.213/32
34.231.68.152/32
35.169.138.21/32
35.171.78.91/32
52.44.63.161/32
52.70.27.159/32
`

const compiledInAU = `# au: 3 ranges, as of 2026-06-29T00:00:00Z, source: compiled in
3.104.68.152/32
52.63.36.185/32
52.64.2.165/32
`

func TestIPRangesArePrinted(t *testing.T) {
	config, storage := configWithStorage(t)
	stdout, _, err := printIPRanges(t, "--config", config)
	if err != nil || !strings.HasPrefix(stdout, compiledInUS+"# eu: 3 ranges") || !strings.HasSuffix(stdout, compiledInAU) {
		t.Errorf("nothing is stored: %v\n%s", err, stdout)
	}
	if stdout, _, err := printIPRanges(t, "au", "us", "--config", config); err != nil || stdout != compiledInUS+compiledInAU {
		t.Errorf("two regions: %v\n%s", err, stdout)
	}

	want := `{"region":"au","as_of":"2026-06-29T00:00:00Z","source":"compiled in","ranges":["3.104.68.152/32","52.63.36.185/32","52.64.2.165/32"]}` + "\n"
	if stdout, _, err := printIPRanges(t, "au", "--json", "--config", config); err != nil || stdout != want {
		t.Errorf("as JSON: %v\n%s", err, stdout)
	}

	const key = "intercom_webhook/ip_ranges/us.json"
	stored := `{"ranges":["192.0.2.7/32"],"checked":"2026-11-23T10:11:12Z"}`
	if err := storage.Store(t.Context(), key, []byte(stored)); err != nil {
		t.Fatal(err)
	}
	want = "# us: 1 ranges, as of 2026-11-23T10:11:12Z, source: storage\n192.0.2.7/32\n"
	if stdout, _, err := printIPRanges(t, "us", "--config", config); err != nil || stdout != want {
		t.Errorf("a newer list is stored: %v\n%s", err, stdout)
	}

	if err := storage.Store(t.Context(), key, []byte("{")); err != nil {
		t.Fatal(err)
	}
	stdout, code, err := printIPRanges(t, "us", "--config", config)
	if code != exitFailed || err == nil || !strings.Contains(err.Error(), "us: reading the stored list") || stdout != compiledInUS {
		t.Errorf("what is stored is broken: code %d, %v\n%s", code, err, stdout)
	}
}

func TestIPRangesAreFetched(t *testing.T) {
	config, _ := configWithStorage(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/eu" {
			w.WriteHeader(500)
			return
		}
		io.WriteString(w, `{"ip_ranges":[{"range":"192.0.2.7/32","service":"INTERCOM-OUTBOUND"}]}`)
	}))
	defer server.Close()
	url := server.URL + "/{region}"
	args := []string{"us", "--fetch", "--config", config, "--url", url}
	stdout, _, err := printIPRanges(t, args...)
	if err != nil || !strings.HasPrefix(stdout, "# us: 1 ranges, as of 20") || !strings.HasSuffix(stdout, ", source: intercom\n192.0.2.7/32\n") {
		t.Errorf("%v\n%s", err, stdout)
	}
	stored, _, err := printIPRanges(t, "us", "--config", config, "--url", url)
	if err != nil || !strings.HasSuffix(stored, ", source: storage\n192.0.2.7/32\n") {
		t.Errorf("stored %s, %v", stored, err)
	}

	stdout, code, err := printIPRanges(t, append(args, "eu")...)
	if code != exitFailed || err == nil || err.Error() != "eu: answer refused: status 500" {
		t.Errorf("code %d, error %v", code, err)
	}
	if !strings.Contains(stdout, "source: intercom\n192.0.2.7/32\n# eu: 3 ranges, as of 2026-06-29T00:00:00Z, source: compiled in\n54.") {
		t.Errorf("one of two can be fetched:\n%s", stdout)
	}
}

func TestIPRangesOfWrongArguments(t *testing.T) {
	for name, args := range map[string][]string{
		`region "uk" is not a region`:       {"uk"},
		"region us is given twice":          {"us", "us"},
		"url is the same for all":           {"--url", "http://127.0.0.1:1/list"},
		"timeout must be from 1ms":          {"--timeout", "-1s"},
		"1 year, as in \"10s\", and not 0s": {"--timeout", "0"},
		"no such file or directory":         {"--config", "/nowhere/caddy.json"},
		"unknown module: caddy.storage":     {"--config", writeFile(t, `{"storage":{"module":"unheard_of"}}`)},
	} {
		stdout, code, err := printIPRanges(t, args...)
		if code != exitUsage || err == nil || !strings.Contains(err.Error(), name) || stdout != "" {
			t.Errorf("%q: code %d, error %v\n%s", args, code, err, stdout)
		}
	}
}
