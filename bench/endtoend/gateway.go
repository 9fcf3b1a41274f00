package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	sqlite   = "sqlite"
	postgres = "postgres"
)

// schema is the one that is made in the PostgreSQL database, and dropped.
const schema = "intercom_endtoend"

// Where the gateway has what: the queue, and to the same backend a bare reverse_proxy and the
// module without a queue.
const (
	queuePath = "/"
	barePath  = "/bare"
	syncPath  = "/sync"
)

const caddyfile = `{
	admin %[1]s
	persist_config off
	grace_period 10s
	log {
		level ERROR
	}
}
http://:%[2]s {
	bind 127.0.0.1
	reverse_proxy /bare %[3]s
	intercom_webhook /sync {
		client_secret %[4]s
		allow static 127.0.0.1
		route * to %[3]s
	}
	intercom_webhook / {
		client_secret %[4]s
		allow static 127.0.0.1
		route * as all to %[3]s
		queue %[5]s
	}
}
`

// gateway is Caddy with a store of its own.
type gateway struct {
	engine, url    string
	dir, program   string
	address, admin string
	cmd            *exec.Cmd
	ended          chan struct{}
}

// newGateway makes a gateway with an empty store, which launch starts.
func (b *bench) newGateway(ctx context.Context, program, backend string) (*gateway, error) {
	dir, err := os.MkdirTemp(b.dir, b.engine)
	if err != nil {
		return nil, err
	}
	g := &gateway{engine: b.engine, url: b.url, dir: dir, program: program}
	lane := ""
	if b.lane != "" {
		lane = "\t\t\tlane all {\n\t\t\t\t" + b.lane + "\n\t\t\t}\n"
	}
	queue := "sqlite {\n\t\t\tpath " + filepath.Join(dir, "queue.db") + "\n" + lane + "\t\t}"
	if b.engine == postgres {
		queue = "postgres " + b.url + " {\n\t\t\tschema " + schema + "\n" + lane + "\t\t}"
		if err := dropSchema(ctx, b.url); err != nil {
			return nil, err
		}
	}
	for _, address := range []*string{&g.address, &g.admin} {
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	_, port, err := net.SplitHostPort(g.address)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(caddyfile, g.admin, port, backend, secret, queue)
	return g, os.WriteFile(g.configFile(), []byte(config), 0o600)
}

func (g *gateway) configFile() string { return filepath.Join(g.dir, "Caddyfile") }
func (g *gateway) logFile() string    { return filepath.Join(g.dir, "log") }

// freeAddress returns an address that was free a moment ago.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// launch starts the gateway and returns how long it took until it answered.
func (g *gateway) launch(ctx context.Context) (took time.Duration, err error) {
	log, err := os.OpenFile(g.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	g.cmd = exec.CommandContext(ctx, g.program, "run", "--adapter", "caddyfile", "--config", g.configFile())
	g.cmd.Env = append(os.Environ(), "HOME="+g.dir, "XDG_CONFIG_HOME="+g.dir, "XDG_DATA_HOME="+g.dir)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	began := time.Now()
	if err := g.cmd.Start(); err != nil {
		return 0, err
	}
	g.ended = make(chan struct{})
	go func() {
		_ = g.cmd.Wait() // how it ended is in its log
		close(g.ended)
	}()
	for time.Since(began) < longestGap {
		select {
		case <-g.ended:
			return 0, fmt.Errorf("the gateway has ended: %s", g.lastWords())
		case <-time.After(2 * time.Millisecond):
		}
		if response, err := http.Head("http://" + g.address); err == nil {
			response.Body.Close()
			return time.Since(began), nil
		}
	}
	return 0, fmt.Errorf("the gateway does not answer: %s", g.lastWords())
}

func (g *gateway) lastWords() string {
	log, err := os.ReadFile(g.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return lines[len(lines)-1]
}

// kill ends the process at once.
func (g *gateway) kill() {
	if g.cmd == nil || g.cmd.Process == nil {
		return
	}
	_ = g.cmd.Process.Kill() // it may have ended
	<-g.ended
}

// remove ends the process and removes its store.
func (g *gateway) remove() error {
	g.kill()
	err := os.RemoveAll(g.dir)
	if g.engine == postgres {
		ctx, cancel := context.WithTimeout(context.Background(), longestGap) // also after an interrupt
		defer cancel()
		err = errors.Join(err, dropSchema(ctx, g.url))
	}
	return err
}

func dropSchema(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	return err
}

// writeProfile writes a CPU profile of so many seconds to a file.
func (g *gateway) writeProfile(ctx context.Context, lasting time.Duration, file string) error {
	profile, err := g.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(lasting.Seconds()))))
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o600)
}

// get reads a page of the admin endpoint.
func (g *gateway) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.admin+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	return io.ReadAll(response.Body)
}
