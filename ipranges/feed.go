package ipranges

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/certmagic"
)

// Feed is where the list of one region is published and stored.
type Feed struct {
	Region  string
	url     string
	timeout time.Duration // of a fetch
}

const (
	// maxDocumentSize is the size of the largest document that is accepted, in bytes.
	maxDocumentSize = 1 << 20

	// storageTimeout is how long storage may take. Not every storage obeys it.
	storageTimeout = 2 * time.Second
)

// errRefused is the error for an answer that is not a list to rely on.
var errRefused = errors.New("answer refused")

// newListClient returns a client that obeys HTTP_PROXY, HTTPS_PROXY and NO_PROXY. It
// follows no redirect, because one could lead to http. It keeps no connection open,
// because the next request comes an hour later.
func newListClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch asks Intercom for the list that is published now. The request is conditional if
// last came with an ETag or a time of modification.
func (f Feed) fetch(ctx context.Context, client *http.Client, last *List) (*List, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, errListURL
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "caddy-intercom-webhook")
	if last.etag != "" {
		request.Header.Set("If-None-Match", last.etag)
	}
	if last.lastModified != "" {
		request.Header.Set("If-Modified-Since", last.lastModified)
	}
	conditional := last.etag != "" || last.lastModified != ""

	// Without this, the transport goes on dialing after the request has timed out.
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // without the URL, which may have a password
		}
		return nil, fmt.Errorf("no answer: %w", err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusNotModified && conditional:
		confirmed := *last
		confirmed.Checked, confirmed.Source = now(), sourceIntercom
		return &confirmed, nil
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: status %d", errRefused, response.StatusCode)
	}
	document, err := io.ReadAll(io.LimitReader(response.Body, maxDocumentSize+1))
	if err != nil {
		return nil, fmt.Errorf("incomplete answer: %w", err)
	}
	if len(document) > maxDocumentSize {
		return nil, fmt.Errorf("%w: larger than %d bytes", errRefused, maxDocumentSize)
	}
	list, err := parsePublished(document)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	list.Checked, list.Source = now(), sourceIntercom
	list.etag, list.lastModified = response.Header.Get("ETag"), response.Header.Get("Last-Modified")
	return list, nil
}

// now returns the time as it is stored. It is never before compiledInDate: with a clock
// that is behind, a fetched list must not be older than the one compiled in.
func now() time.Time {
	now := time.Now().UTC().Truncate(time.Second)
	if now.Before(compiledInDate) {
		return compiledInDate
	}
	return now
}

// storageKey returns a key that is different for each URL, so that a list from one URL
// is never used for another.
func (f Feed) storageKey() string {
	name := f.Region
	if f.url != listURL(defaultURL, f.Region) {
		hash := sha256.Sum256([]byte(f.url))
		name += fmt.Sprintf("-%x", hash[:8])
	}
	return "intercom_webhook/ip_ranges/" + name + ".json"
}

// stored returns the list in storage, or nil if there is none.
func (f Feed) stored(ctx context.Context, storage certmagic.Storage) (*List, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	content, err := storage.Load(ctx, f.storageKey())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseStored(content)
}

func (f Feed) store(ctx context.Context, storage certmagic.Storage, list *List) error {
	content, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	return storage.Store(ctx, f.storageKey(), content)
}

// Newest returns the newer one of the list in storage and the list compiled in. An error
// says why the list in storage is not used; there is a list even then.
func (f Feed) Newest(ctx context.Context, storage certmagic.Storage) (*List, error) {
	list := compiledInList(f.Region)
	stored, err := f.stored(ctx, storage)
	if stored != nil && !stored.Checked.Before(list.Checked) {
		list = stored
	}
	return list, err
}

// Fetch asks Intercom for the list that is published now, and stores it. If it cannot
// be stored, Fetch returns both the list and an error.
func (f Feed) Fetch(ctx context.Context, storage certmagic.Storage, last *List) (*List, error) {
	list, err := f.fetch(ctx, newListClient(), last)
	if err != nil {
		return nil, err
	}
	return list, f.store(ctx, storage, list)
}
