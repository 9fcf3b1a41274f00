package body

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestRestoredBodyCanBeReadAgain(t *testing.T) {
	body := []byte(`{"topic":"ping"}`)
	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	r.ContentLength = -1
	r.TransferEncoding = []string{"chunked"}
	r.Trailer = http.Header{"X-Late": nil}
	Restore(r, body)

	for range 2 {
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %q, %v", got, err)
		}
		var errBody error
		if r.Body, errBody = r.GetBody(); errBody != nil {
			t.Fatal(errBody)
		}
	}
	if r.ContentLength != 16 || r.Header.Get("Content-Length") != "16" || r.TransferEncoding != nil || r.Trailer != nil {
		t.Errorf("still looks chunked: length %d, header %v, encoding %v, trailer %v", r.ContentLength, r.Header, r.TransferEncoding, r.Trailer)
	}
}

func TestAnotherHandlerGetsTheWholeBodyAgain(t *testing.T) {
	restored := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, &caddyhttp.Server{})
		Restore(r, []byte("the body"))
		return r
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   string
	}{
		"of which nothing was read":          {func(*http.Request) {}, "the body"},
		"of which a part was read":           {func(r *http.Request) { _, _ = r.Body.Read(make([]byte, 3)) }, "the body"},
		"that was read and closed":           {func(r *http.Request) { _, _ = io.ReadAll(r.Body); _ = r.Body.Close() }, "the body"},
		"that was copied":                    {func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, "the body"},
		"but not one that was replaced":      {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("its body")) }, "its body"},
		"but not one of a length of its own": {func(r *http.Request) { _, _ = io.ReadAll(r.Body); r.Body, r.ContentLength = http.NoBody, 0 }, ""},
	} {
		r := restored()
		c.change(r)
		Again(r)
		if got, err := io.ReadAll(r.Body); string(got) != c.want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, c.want)
		}
	}
}

// Another handler may have replaced the body.
func TestABodyMayBeLargerThanItsContentLength(t *testing.T) {
	for _, size := range []int{7, 3 * unreserved} {
		body := bytes.Repeat([]byte("x"), size)
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.ContentLength = 5
		got, reserved, err := Read(httptest.NewRecorder(), r, 1<<20, time.Time{})
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes: got %d, %v", size, len(got), err)
		}
		reserved.Release()
	}
}

func TestABodyOfAnySizeIsReadWhole(t *testing.T) {
	for _, size := range []int{0, 1, unreserved - 2, unreserved - 1, unreserved, unreserved + 1, 3 * unreserved, 3*unreserved + 1, 4*unreserved - 1, 4 * unreserved, 4*unreserved + 1, 1 << 20} {
		for _, announced := range []bool{true, false} {
			body := bytes.Repeat([]byte("x"), size)
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
			if !announced {
				r.ContentLength = -1
			}
			got, reserved, err := Read(httptest.NewRecorder(), r, 1<<20, time.Time{})
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%d bytes (announced: %t): got %d, %v", size, announced, len(got), err)
			}
			if used := memory.used; used < int64(cap(got)) || used > int64(2*max(size, unreserved)+overhead) {
				t.Errorf("%d bytes (announced: %t): %d are reserved for %d", size, announced, used, cap(got))
			}
			reserved.Release()
			_, _, err = Read(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(append(body, 'x'))), int64(size), time.Time{})
			if large, ok := errors.AsType[*http.MaxBytesError](err); !ok || large.Limit != int64(size) {
				t.Errorf("%d bytes, one too many: %v", size+1, err)
			}
		}
	}
	if memory.used != 0 || len(memory.coming) != 0 {
		t.Errorf("%d bytes are kept, of %d bodies", memory.used, len(memory.coming))
	}
}

// Some clients of HTTP/2 lose an answer, too, that comes while they send.
func TestWhatIsDiscardedIsReadToItsEnd(t *testing.T) {
	for _, major := range []int{1, 2, 3} {
		body := strings.NewReader(strings.Repeat("x", 100<<10))
		r := httptest.NewRequest(http.MethodPost, "/", body)
		r.ProtoMajor = major
		Discard(httptest.NewRecorder(), r, time.Time{})
		if body.Len() != 0 {
			t.Errorf("HTTP/%d: %d bytes are left", major, body.Len())
		}
	}
}
