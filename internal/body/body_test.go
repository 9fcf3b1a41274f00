package body

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
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
