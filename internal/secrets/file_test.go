package secrets

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// secretDir is a directory with the file of a secret in it.
type secretDir struct {
	t    *testing.T
	path string // of the file
}

func newSecretDir(t *testing.T, content string) secretDir {
	d := secretDir{t, filepath.Join(t.TempDir(), "secrets")}
	d.write(d.path, content, 0)
	return d
}

// longAgo is a time at which files were written.
var longAgo = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) // before time begins in a bubble of synctest

func (d secretDir) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// write writes a file in place, some time after longAgo.
func (d secretDir) write(path, content string, later time.Duration) {
	d.t.Helper()
	d.must(os.WriteFile(path, []byte(content), 0o600))
	d.must(os.Chtimes(path, longAgo.Add(later), longAgo.Add(later)))
}

// following returns secrets that follow the file, and their log.
func (d secretDir) following() (*Secrets, *observer.ObservedLogs) {
	d.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	s, err := New("client_secret", []string{"{file." + d.path + "}"}, zap.New(core), func(int) {})
	d.must(err)
	s.Keys()
	return s, logs
}

// lines returns what was logged since it was called last.
func lines(logs *observer.ObservedLogs) []string {
	var all []string
	for _, entry := range logs.TakeAll() {
		all = append(all, fmt.Sprint(entry.Level, " ", entry.Message, " ", entry.ContextMap()))
	}
	return all
}

// wantLine asserts that there is one line, with a text in it and without secrets.
func wantLine(t *testing.T, logs *observer.ObservedLogs, text string) {
	t.Helper()
	if got := lines(logs); len(got) != 1 || !strings.Contains(got[0], text) || strings.Contains(got[0], "hush") {
		t.Errorf("logged %q, want one line with %q and no secret", got, text)
	}
}

func wantNoLine(t *testing.T, logs *observer.ObservedLogs) {
	t.Helper()
	if got := lines(logs); len(got) != 0 {
		t.Errorf("logged %q", got)
	}
}

func wantSecrets(t *testing.T, s *Secrets, want ...string) {
	t.Helper()
	keys := s.Keys()
	if got := s.texts(); !slices.Equal(got, want) || len(keys) != len(want) {
		t.Errorf("%d keys of the secrets %q, want %q", len(keys), got, want)
		return
	}
	body := []byte("body")
	for i, text := range want {
		claimed, err := signature.Hub.Decode(signature.NewKey(text).Header(signature.Hub, body))
		if err != nil || !keys[i].Signed(body, claimed) {
			t.Errorf("key %d is not that of its secret", i+1)
		}
	}
}

func TestSecretFollowsItsFile(t *testing.T) {
	for name, change := range map[string]func(secretDir){
		"a line more": func(d secretDir) { d.write(d.path, "hush2\nhush1\n", time.Second) },
		"other content of the same size, a nanosecond later": func(d secretDir) { d.write(d.path, "hush2\n", 1) },
		"an older time":                 func(d secretDir) { d.write(d.path, "hush2\n", -time.Hour) },
		"another size at the same time": func(d secretDir) { d.write(d.path, "hush2\n\n", 0) },
		"the same inode, size and time": func(d secretDir) { d.write(d.path, "hush2\n", 0) },
		"another file of the same size and time": func(d secretDir) {
			d.write(d.path+"~", "hush2\n", 0)
			d.must(os.Rename(d.path+"~", d.path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newSecretDir(t, "hush1\n")
			synctest.Test(t, func(t *testing.T) {
				s, logs := d.following()
				change(d)
				want, err := os.ReadFile(d.path)
				d.must(err)
				wantSecrets(t, s, "hush1") // looked at less than a second ago
				time.Sleep(time.Second)
				wantSecrets(t, s, strings.Fields(string(want))...)
				wantLine(t, logs, "info file of client_secret was read again")
				for range 3 {
					time.Sleep(time.Second)
					wantSecrets(t, s, strings.Fields(string(want))...)
				}
				wantNoLine(t, logs)
			})
		})
	}
}

// Secrets in Kubernetes are changed by a link to a directory that points to another.
func TestSecretFollowsALinkThatIsReplaced(t *testing.T) {
	d := newSecretDir(t, "")
	dir := filepath.Dir(d.path)
	d.must(os.Remove(d.path))
	for _, version := range []string{"..1", "..2"} {
		d.must(os.Mkdir(filepath.Join(dir, version), 0o700))
		d.write(filepath.Join(dir, version, "secrets"), "hush"+version+"\n", 0)
	}
	d.must(os.Symlink("..1", filepath.Join(dir, "..data")))
	d.must(os.Symlink("..data/secrets", d.path))
	synctest.Test(t, func(t *testing.T) {
		s, _ := d.following()
		wantSecrets(t, s, "hush..1")
		d.must(os.Symlink("..2", filepath.Join(dir, "..data_tmp")))
		d.must(os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		time.Sleep(time.Second)
		wantSecrets(t, s, "hush..2")
	})
}

func TestTroubleWithASecretFileKeepsTheSecrets(t *testing.T) {
	d := newSecretDir(t, "hush1\nhush2\n")
	synctest.Test(t, func(t *testing.T) {
		s, logs := d.following()
		for _, trouble := range []struct {
			text  string
			cause func()
		}{
			{"no such file", func() { d.must(os.Remove(d.path)) }},
			{"has no secret", func() { d.write(d.path, "", time.Second) }},
			{"not a regular file", func() { d.must(os.Remove(d.path)); d.must(os.Mkdir(d.path, 0o700)) }},
			{"larger than", func() { d.must(os.Remove(d.path)); d.write(d.path, "hush3"+strings.Repeat("\n", 1<<20), 0) }},
			{"has no secret", func() { d.write(d.path, " \r\n\n# hush3\n", 2*time.Second) }},
			{"line 2: a blank", func() { d.write(d.path, "hush3\nhush 4\n", 2*time.Second) }},
		} {
			trouble.cause()
			for range 3 {
				time.Sleep(time.Second)
				wantSecrets(t, s, "hush1", "hush2")
			}
			wantLine(t, logs, trouble.text)
		}

		d.write(d.path, "hush3\n", 2*time.Second)
		time.Sleep(time.Second)
		wantSecrets(t, s, "hush3")
		wantLine(t, logs, "info file of client_secret was read again map[file:"+d.path+" secrets:1]")

		d.must(os.Rename(d.path, d.path+"~"))
		time.Sleep(time.Second)
		wantSecrets(t, s, "hush3")
		wantLine(t, logs, "no such file")
		d.must(os.Rename(d.path+"~", d.path))
		time.Sleep(time.Second)
		wantSecrets(t, s, "hush3")
		wantLine(t, logs, "was read again")
	})
}

func TestSecretsOfSeveralFilesKeepTheirOrder(t *testing.T) {
	d, other := newSecretDir(t, "hush1\n"), newSecretDir(t, "hush2\nhush3\n")
	synctest.Test(t, func(t *testing.T) {
		s, err := New("client_secret", []string{"{file." + d.path + "}", "literal", "{file." + other.path + "}"}, zap.NewNop(), func(int) {})
		d.must(err)
		wantSecrets(t, s, "hush1", "literal", "hush2", "hush3")
		d.write(d.path, "hush4\nhush1\n", time.Second)
		other.write(other.path, "hush3\n", time.Second)
		time.Sleep(time.Second)
		wantSecrets(t, s, "hush4", "hush1", "literal", "hush3")
	})
}

// All at once, so that none that is signed with a new secret is judged by the old ones.
func TestRequestsWaitForACheck(t *testing.T) {
	d := newSecretDir(t, "hush1\n")
	synctest.Test(t, func(t *testing.T) {
		s, logs := d.following()
		for i := range 20 {
			want := fmt.Sprintf("hush%d", i)
			d.write(d.path, want+"\n", time.Duration(i+1)*time.Second)
			time.Sleep(time.Second)
			claimed, _ := signature.Hub.Decode(signature.NewKey(want).Header(signature.Hub, nil))
			var requests sync.WaitGroup
			for range 20 {
				requests.Go(func() {
					if !s.Keys()[0].Signed(nil, claimed) {
						t.Errorf("judged by another secret than %s", want)
					}
				})
			}
			requests.Wait()
			wantLine(t, logs, "was read again")
		}
	})
}

// A file system can hang, such as one of a network.
func TestCheckThatDoesNotEndIsGivenUp(t *testing.T) {
	d := newSecretDir(t, "hush1\n")
	synctest.Test(t, func(t *testing.T) {
		s, logs := d.following()
		began := time.Now()
		stuck := &fileCheck{began: began, done: make(chan struct{})}
		s.latest = stuck
		var requests sync.WaitGroup
		for range 20 {
			requests.Go(func() { s.Keys() })
		}
		requests.Wait()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("requests waited %s", waited)
		}
		wantLine(t, logs, "does not answer")
		wantSecrets(t, s, "hush1")
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("another request waited %s", waited-time.Second)
		}

		d.write(d.path, "hush2\n", time.Second)
		time.Sleep(time.Minute)
		wantSecrets(t, s, "hush1")
		close(stuck.done)
		wantSecrets(t, s, "hush2")
		wantLine(t, logs, "was read again")
	})
}
