package integration

import (
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
)

// proxy is where requests to the outside go, which it refuses: tests talk to this
// host only, for which no proxy is used.
var proxy struct {
	mu    sync.Mutex
	asked []string // hosts with ports
}

func askedProxyFor(host string) bool {
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	return slices.Contains(proxy.asked, host)
}

func TestMain(m *testing.M) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.mu.Lock()
		proxy.asked = append(proxy.asked, r.Host)
		proxy.mu.Unlock()
		w.WriteHeader(http.StatusBadGateway)
	}))
	for name, value := range map[string]string{ // read once in the life of a process
		"HTTP_PROXY": server.URL, "HTTPS_PROXY": server.URL, "NO_PROXY": "", "no_proxy": "",
	} {
		os.Setenv(name, value)
	}
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}
