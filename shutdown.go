package intercomwebhook

import (
	"net/http"
	"sync"
)

// shutdowns tells the requests of admin endpoints when their endpoint is being shut down.
var shutdowns shutdownWatch

// shutdownWatch calls functions when the shutdown of an HTTP server begins. A server keeps
// for ever what is registered with it, so there is one registration for each server.
type shutdownWatch struct {
	mu      sync.Mutex
	servers map[*http.Server]*watchedServer
}

type watchedServer struct {
	down    bool
	next    int
	waiting map[int]func()
}

// cancelOnShutdown calls cancel when the shutdown of the server of a request begins. It
// returns false if it has begun. Otherwise the caller must call the returned function when the
// request ends.
func (s *shutdownWatch) cancelOnShutdown(r *http.Request, cancel func()) (stop func(), ok bool) {
	server := r.Context().Value(http.ServerContextKey).(*http.Server)
	s.mu.Lock()
	defer s.mu.Unlock()
	watched := s.servers[server]
	if watched == nil {
		watched = s.watch(server)
	}
	if watched.down {
		return nil, false
	}
	id := watched.next
	watched.next++
	watched.waiting[id] = cancel
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(watched.waiting, id)
	}, true
}

// watch registers a new server. It forgets those that are down by then, but not before, as
// they may still have requests. It needs s.mu.
func (s *shutdownWatch) watch(server *http.Server) *watchedServer {
	if s.servers == nil {
		s.servers = make(map[*http.Server]*watchedServer)
	}
	for other, watched := range s.servers {
		if watched.down {
			delete(s.servers, other)
		}
	}
	watched := &watchedServer{waiting: make(map[int]func())}
	s.servers[server] = watched
	server.RegisterOnShutdown(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		watched.down = true
		for _, cancel := range watched.waiting {
			cancel()
		}
	})
	return watched
}
