package ipranges

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// listServer publishes, or does whatever else it is told to.
func listServer(t *testing.T, answer http.HandlerFunc) Feed {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return Feed{"us", server.URL + "/us", 10 * time.Second}
}

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestFetch(t *testing.T) {
	last := &List{Ranges: prefixes("192.0.2.7/32"), Checked: compiledInDate, etag: `"a"`, lastModified: "Mon, 02 Nov 2026 09:00:00 GMT", Source: sourceIntercom}
	good := published("198.51.100.0/24")
	for _, tc := range []struct {
		name    string
		answer  http.HandlerFunc
		last    *List
		want    *List // but for the time
		err     string
		refused bool
	}{
		{
			name: "a new list",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["ETag"], w.Header()["Last-Modified"] = []string{`"b"`}, []string{"Tue, 03 Nov 2026 09:00:00 GMT"}
				io.WriteString(w, good)
			},
			want: &List{Ranges: prefixes("198.51.100.0/24"), etag: `"b"`, lastModified: "Tue, 03 Nov 2026 09:00:00 GMT", Source: sourceIntercom},
		},
		{
			name: "one that is not asked for again",
			answer: func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("If-None-Match") == last.etag && r.Header.Get("If-Modified-Since") == last.lastModified {
					w.WriteHeader(304)
				}
			},
			want: &List{Ranges: last.Ranges, etag: last.etag, lastModified: last.lastModified, Source: sourceIntercom},
		},
		{
			name: "one for the first time",
			last: compiledInList("us"),
			answer: func(w http.ResponseWriter, r *http.Request) {
				if r.Header["If-None-Match"] == nil && r.Header["If-Modified-Since"] == nil && r.Header.Get("Accept") == "application/json" {
					io.WriteString(w, good)
				}
			},
			want: &List{Ranges: prefixes("198.51.100.0/24"), Source: sourceIntercom},
		},
		{name: "unchanged, which was not asked", last: compiledInList("us"), answer: answering(304, ""), err: "status 304", refused: true},
		{name: "an error", answer: answering(500, good), err: "status 500", refused: true},
		{name: "another success", answer: answering(203, good), err: "status 203", refused: true},
		{name: "gone", answer: answering(404, good), err: "status 404", refused: true},
		{
			name: "elsewhere", err: "status 302", refused: true,
			answer: func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/us" {
					http.Redirect(w, r, "/list", http.StatusFound)
				} else {
					io.WriteString(w, good)
				}
			},
		},
		{name: "no list", answer: answering(200, "<html>"), err: "not the documented JSON", refused: true},
		{
			name: "30 MB", err: "larger than 1048576 bytes", refused: true,
			answer: func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, good+strings.Repeat(" ", 30<<20))
			},
		},
		{
			name: "one without end", err: "larger than 1048576 bytes", refused: true,
			answer: func(w http.ResponseWriter, _ *http.Request) {
				_, err := io.WriteString(w, good)
				for err == nil {
					_, err = w.Write(make([]byte, 64<<10))
				}
			},
		},
		{
			name: "30 MB that are small on the way", err: "larger than 1048576 bytes", refused: true,
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				w.Write(gzipped(t, good+strings.Repeat(" ", 30<<20)))
			},
		},
		{
			name: "the largest that is read",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, good+strings.Repeat(" ", 1<<20-len(good)))
			},
			want: &List{Ranges: prefixes("198.51.100.0/24"), Source: sourceIntercom},
		},
		{
			name: "one that breaks off", err: "incomplete answer",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "10000")
				io.WriteString(w, good)
			},
		},
		{
			name: "headers without end", err: "no answer",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("ETag", strings.Repeat("x", 100<<10))
				io.WriteString(w, good)
			},
		},
		{name: "none", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, err: "no answer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			feed := listServer(t, tc.answer)
			if tc.last == nil {
				tc.last = last
			}
			list, err := feed.fetch(t.Context(), newListClient(), tc.last)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || errors.Is(err, errRefused) != tc.refused {
					t.Errorf("error %v, want %q", err, tc.err)
				} else if strings.Contains(err.Error(), feed.url) {
					t.Errorf("the error has the URL: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if age := time.Since(list.Checked); age < 0 || age > time.Hour {
				t.Errorf("checked at %s", list.Checked)
			}
			list.Checked = time.Time{}
			if !reflect.DeepEqual(list, tc.want) {
				t.Errorf("got %+v, want %+v", list, tc.want)
			}
		})
	}
}

func TestFetchGivesUp(t *testing.T) {
	for name, begun := range map[string]bool{"before there is an answer": false, "in the middle of an answer": true} {
		t.Run(name, func(t *testing.T) {
			feed := listServer(t, func(w http.ResponseWriter, r *http.Request) {
				if begun {
					io.WriteString(w, "{")
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			})
			feed.timeout = 50 * time.Millisecond
			_, err := feed.fetch(t.Context(), newListClient(), compiledInList("us"))
			if err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Go's transport does not give up dialing when the request is given up.
func TestFetchLeavesNoConnectionBehind(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn // and not a word of TLS
		}
	}()
	feed := Feed{"us", "https://" + listener.Addr().String(), 50 * time.Millisecond}
	if _, err := feed.fetch(t.Context(), newListClient(), compiledInList("us")); err == nil {
		t.Error("no error")
	}
	conn := <-accepted
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestStorageOfLists(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	feed := Feed{Region: "us", url: listURL(defaultURL, "us")}
	compiled := compiledInList("us")

	newest := func() (*List, error) { return feed.Newest(t.Context(), storage) }
	if list, err := newest(); err != nil || !reflect.DeepEqual(list, compiled) {
		t.Errorf("nothing is stored: got %+v, %v", list, err)
	}

	future := &List{Ranges: prefixes("192.0.2.7/32"), Checked: time.Now().Add(1000 * time.Hour)}
	if err := feed.store(t.Context(), storage, future); err != nil {
		t.Fatal(err)
	}
	if list, err := newest(); err != nil || !slices.Equal(list.Ranges, future.Ranges) || !list.Checked.Equal(compiledInDate) {
		t.Errorf("one is stored by a clock that is wrong: got %+v, %v", list, err)
	}

	newer := &List{Ranges: prefixes("192.0.2.7/32"), Checked: compiledInDate.Add(time.Second), Source: sourceStorage}
	if err := feed.store(t.Context(), storage, newer); err != nil {
		t.Fatal(err)
	}
	if list, err := newest(); err != nil || !reflect.DeepEqual(list, newer) {
		t.Errorf("a newer one is stored: got %+v, %v", list, err)
	}

	older := &List{Ranges: prefixes("192.0.2.7/32"), Checked: compiledInDate.Add(-time.Second)}
	if err := feed.store(t.Context(), storage, older); err != nil {
		t.Fatal(err)
	}
	if list, err := newest(); err != nil || !reflect.DeepEqual(list, compiled) {
		t.Errorf("an older one is stored: got %+v, %v", list, err)
	}

	if err := storage.Store(t.Context(), feed.storageKey(), []byte(`{"ranges":["0.0.0.0/0"],"checked":"2030-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if list, err := newest(); err == nil || !reflect.DeepEqual(list, compiled) {
		t.Errorf("a bad one is stored: got %+v, %v", list, err)
	}
}

func TestStorageKey(t *testing.T) {
	keys := []string{
		Feed{Region: "us", url: listURL(defaultURL, "us")}.storageKey(),
		Feed{Region: "eu", url: listURL(defaultURL, "eu")}.storageKey(),
		Feed{Region: "us", url: "http://mirror/us"}.storageKey(),
		Feed{Region: "us", url: "http://mirror/us2"}.storageKey(),
		Feed{Region: "eu", url: "http://mirror/us"}.storageKey(),
	}
	if keys[0] != "intercom_webhook/ip_ranges/us.json" {
		t.Errorf("the key is %s", keys[0])
	}
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 5 {
		t.Errorf("not all keys differ: %q", keys)
	}
}

// answering returns a handler that answers with a status and a body.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}
