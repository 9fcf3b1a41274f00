// Command endtoend measures the queue from outside: load, gateway and backend are
// processes of their own, and the gateway is ./cmd/caddy with the queue's default
// settings. A bare reverse_proxy and appending to a file are measured in the same run.
// See ../README.md.
package main

import (
	"context"
	"errors"
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
	engines := flag.String("engine", "sqlite", "engines, separated by commas: "+strings.Join(allEngines, ", "))
	selected := flag.String("rows", strings.Join(rowNames(), ","), "rows, separated by commas")
	flag.BoolVar(&o.short, "short", false, "smaller sizes, to see that it works")
	flag.StringVar(&o.profile, "profile", "", "write a CPU profile of the gateway to `file`.<engine>.<row>, for each row")
	flag.StringVar(&o.url, "url", "postgres://postgres@127.0.0.1:5432/test", "PostgreSQL database, in which a schema is made and dropped")
	flag.StringVar(&o.dir, "dir", "", "folder on the disk to be measured (default: that for temporary files)")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	exit(run(ctx, o, strings.Split(*engines, ","), strings.Split(*selected, ",")))
}

type options struct {
	short             bool
	profile, url, dir string
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
	program := filepath.Join(dir, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building caddy (run this in the root of the repository): %w\n%s", err, out)
	}
	for _, engine := range engines {
		b := &bench{options: o, engine: engine, dir: dir, program: program}
		err := b.run(ctx, selected)
		b.print(os.Stdout) // also what was measured before an error
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", engine, err), ctx.Err())
		}
	}
	return nil
}
