// Command endtoend measures the queue from outside: load, gateway and backend are
// processes of their own, and the gateway has the queue's default settings. It compares
// builds of Caddy in turn, and each with a bare reverse_proxy. See ../README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	// The program is its own load and its own backend.
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case backendRole:
			exit(runBackend())
		case senderRole:
			exit(runSender())
		}
	}
	var o options
	engines := flag.String("engine", sqlite, "engines, separated by commas: "+strings.Join(allEngines, ", "))
	selected := flag.String("rows", "sync,together,backlog,burst,quiet", "rows, separated by commas: "+strings.Join(rowNames(), ", "))
	flag.Func("gateway", "a `binary` of Caddy with the queue; repeated, each is compared with the last one (default: what ../cmd/caddy builds)", func(path string) error {
		if _, err := os.Stat(path); err != nil {
			return err
		}
		path, err := filepath.Abs(path)
		o.gateways = append(o.gateways, path)
		return err
	})
	flag.IntVar(&o.rounds, "rounds", 3, "how often each row is measured; the median counts")
	flag.IntVar(&o.stock, "stock", 1_000_000, "notifications in the row stock")
	flag.StringVar(&o.lane, "lane", "", "`options` of the lane, such as ordered")
	flag.BoolVar(&o.short, "short", false, "smaller sizes, to see that it works")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of the gateway to `file`.<engine>.<row>.<build>, for each row")
	flag.StringVar(&o.url, "url", "postgres://postgres@127.0.0.1:5432/test", "PostgreSQL database, in which a schema is made and dropped")
	flag.StringVar(&o.dir, "dir", "", "folder on the disk to be measured (default: that for temporary files)")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	exit(run(ctx, o, strings.Split(*engines, ","), strings.Split(*selected, ",")))
}

type options struct {
	gateways                []string
	rounds, stock           int
	short                   bool
	lane, profile, url, dir string
}

var allEngines = []string{sqlite, postgres}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "endtoend:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options, engines, selected []string) error {
	for _, name := range engines {
		if !slices.Contains(allEngines, name) {
			return fmt.Errorf("engine %q is none of %s", name, strings.Join(allEngines, ", "))
		}
	}
	for _, name := range selected {
		if !slices.Contains(rowNames(), name) {
			return fmt.Errorf("row %q is none of %s", name, strings.Join(rowNames(), ", "))
		}
	}
	dir, err := os.MkdirTemp(o.dir, "endtoend")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.dir = dir
	if len(o.gateways) == 0 {
		program := filepath.Join(dir, "caddy")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/caddy")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building caddy (run this in the folder bench): %w\n%s", err, out)
		}
		o.gateways = []string{program}
	}
	for _, engine := range engines {
		b := newBench(o, engine)
		err := b.run(ctx, selected)
		b.print(os.Stdout) // also what was measured before an error
		if err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}
