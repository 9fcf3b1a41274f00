// Command gateway compares Caddy's bare reverse_proxy with intercom_webhook in front
// of the same backend, under the same load, in turn. It needs wrk and prints a ratio.
// See ../README.md.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	secret      = "bench"
	bodySize    = 2200
	connections = 32
)

// The subjects, by the path that leads to them. All talk to the same backend.
var subjects = []struct{ name, path string }{
	{"bare reverse_proxy", "/bare"},
	{"intercom_webhook, route to", "/route"},
	{"intercom_webhook, reverse_proxy behind it", "/middleware"},
}

const caddyfile = `{
	admin off
	persist_config off
	log {
		level ERROR
	}
}
http://:%[1]d {
	bind 127.0.0.1
	reverse_proxy /bare 127.0.0.1:%[2]d
	intercom_webhook /route {
		client_secret bench
		allow static 127.0.0.1
		route ticket.* to 127.0.0.1:1
		route conversation.* to 127.0.0.1:%[2]d
	}
	route /middleware {
		intercom_webhook {
			client_secret bench
			allow static 127.0.0.1
		}
		reverse_proxy 127.0.0.1:%[2]d
	}
}
`

const backendCaddyfile = `{
	admin off
	persist_config off
	log {
		level ERROR
	}
}
http://:%d {
	bind 127.0.0.1
	respond 200
}
`

func main() {
	rounds := flag.Int("rounds", 25, "how often each subject is measured; the median counts")
	duration := flag.Duration("duration", 2*time.Second, "how long a measurement takes")
	flag.Parse()
	if err := run(*rounds, *duration); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func run(rounds int, duration time.Duration) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return errors.New("wrk is not installed: apt-get install wrk")
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	caddy := filepath.Join(dir, "caddy")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", caddy, "./cmd/caddy").CombinedOutput(); err != nil {
		return fmt.Errorf("building caddy (run this in the root of the repository): %w\n%s", err, out)
	}
	script := filepath.Join(dir, "post.lua")
	if err := os.WriteFile(script, wrkScript(notification()), 0o600); err != nil {
		return err
	}
	gatewayPort, backendPort := freePort(), freePort()
	for name, config := range map[string]string{
		"backend": fmt.Sprintf(backendCaddyfile, backendPort),
		"gateway": fmt.Sprintf(caddyfile, gatewayPort, backendPort),
	} {
		stop, err := start(ctx, caddy, filepath.Join(dir, name+".Caddyfile"), config)
		if err != nil {
			return err
		}
		defer stop()
	}

	gateway := fmt.Sprintf("http://127.0.0.1:%d", gatewayPort)
	for _, url := range []string{gateway, fmt.Sprintf("http://127.0.0.1:%d", backendPort)} {
		if err := waitFor(url); err != nil {
			return err
		}
	}
	rates := make([][]float64, len(subjects))
	for round := range rounds + 1 {
		for i, subject := range subjects {
			rate, err := load(ctx, script, gateway+subject.path, duration)
			if err != nil {
				return fmt.Errorf("%s: %w", subject.name, err)
			}
			if round > 0 { // the first one warms up
				rates[i] = append(rates[i], rate)
			}
		}
	}
	report(rates)
	return nil
}

// notification is a body of bodySize bytes in the shape of Intercom's.
func notification() []byte {
	const head = `{"type":"notification_event","app_id":"exmpl123","data":{"type":"notification_event_data","item":{"type":"conversation","id":"301744120095518","conversation_parts":[`
	const part = `{"type":"conversation_part","id":"40117733902","part_type":"comment","body":"<p>Could you also send me the invoice?</p>","created_at":1773244812,"assigned_to":null,"author":{"type":"user","id":"68a1c1f29e07d4003b5f1c20","name":"Zoe"}},`
	const tail = `{}]}},"links":{},"id":"notif_5b6a1e04-54a5-4d6e-8a13-7d3a0a6f5b1c","topic":"conversation.user.replied","delivery_status":"pending","delivery_attempts":1,"delivered_at":0,"first_sent_at":1773244813,"created_at":1773244813,"self":null}`
	n := (bodySize - len(head) - len(tail)) / len(part)
	body := head + strings.Repeat(part, n) + tail
	return []byte(body + strings.Repeat(" ", bodySize-len(body)))
}

func wrkScript(body []byte) []byte {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write(body)
	return fmt.Appendf(nil, `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-Hub-Signature"] = "sha1=%x"
wrk.body = [==[%s]==]
`, mac.Sum(nil), body)
}

func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func start(ctx context.Context, caddy, file, config string) (stop func(), err error) {
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, caddy, "run", "--adapter", "caddyfile", "--config", file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

func waitFor(url string) error {
	var err error
	for range 100 {
		var resp *http.Response
		if resp, err = http.Head(url); err == nil {
			resp.Body.Close()
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

var (
	requestsPerSecond = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	failures          = regexp.MustCompile(`(?m)^\s*(Non-2xx.*|Socket errors.*)$`)
)

// load runs wrk once and returns the requests per second.
func load(ctx context.Context, script, url string, duration time.Duration) (float64, error) {
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c", strconv.Itoa(connections),
		"-d", duration.String(), "-s", script, url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	if failed := failures.Find(out); failed != nil {
		return 0, fmt.Errorf("wrk: %s", bytes.TrimSpace(failed))
	}
	match := requestsPerSecond.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("wrk printed no rate:\n%s", out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

func report(rates [][]float64) {
	fmt.Printf("%-42s %10s %8s   %s\n", "subject", "median/s", "ratio", "ratios of the rounds")
	for i, subject := range subjects {
		var ratios []float64
		for round, rate := range rates[i] {
			ratios = append(ratios, rate/rates[0][round])
		}
		fmt.Printf("%-42s %10.0f %8.3f  ", subject.name, median(rates[i]), median(ratios))
		for _, ratio := range ratios {
			fmt.Printf(" %.3f", ratio)
		}
		fmt.Println()
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
