package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitCodes(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string // the error; empty for none
		code int
	}{
		"fine":                        {args: []string{"group", "do", "fine"}},
		"failed":                      {[]string{"group", "do", "failed"}, "it failed", exitFailed},
		"wrong use":                   {[]string{"group", "do", "wrong"}, "it is wrong", exitUsage},
		"wrong arguments":             {[]string{"group", "do"}, "got 0 arguments: expecting 'caddy group do': see 'caddy group do --help'", exitUsage},
		"wrong flag":                  {[]string{"group", "do", "--nope"}, "unknown flag: --nope: see 'caddy group do --help'", exitUsage},
		"wrong flag above":            {[]string{"--nope"}, "unknown flag: --nope: see 'caddy --help'", exitUsage},
		"unknown command":             {[]string{"group", "othr"}, `unknown command "othr": the commands of 'caddy group' are do and other; did you mean other?`, exitUsage},
		"unknown command with a flag": {[]string{"group", "othr", "--flag", "x"}, `unknown command "othr": the commands of 'caddy group' are do and other; did you mean other?`, exitUsage},
		"help":                        {args: []string{"group"}},
	} {
		t.Run(name, func(t *testing.T) {
			do := &cobra.Command{Use: "do", Args: usageArgs(cobra.ExactArgs(1)), RunE: runE(func(_ context.Context, _ *run, args []string) error {
				return map[string]error{"failed": errors.New("it failed"), "wrong": usagef("it is %s", "wrong")}[args[0]]
			})}
			group := &cobra.Command{Use: "group"}
			groupCommands(group, do, &cobra.Command{Use: "other", Run: func(*cobra.Command, []string) {}})
			root := &cobra.Command{Use: "caddy", SilenceUsage: true}
			groupCommands(root, group)
			var out bytes.Buffer
			root.SetOut(&out)
			root.SetErr(&out)
			root.SetArgs(test.args)
			err := root.Execute()
			if test.want == "" {
				if err != nil {
					t.Errorf("got the error %v", err)
				}
				return
			}
			if err == nil || err.Error() != test.want {
				t.Fatalf("got the error %v, want %s", err, test.want)
			}
			if strings.Contains(out.String(), test.want) {
				t.Errorf("cobra prints the error, too: %s", out.String())
			}
			if code := exitCode(err); code != test.code {
				t.Errorf("got the exit code %d, want %d", code, test.code)
			}
		})
	}
}

// exitCode returns the exit code with which Caddy ends after an error of a command.
func exitCode(err error) int {
	if err == nil {
		return exitFine
	}
	if exit := reflect.ValueOf(err).Elem(); exit.Type().Name() == "exitError" { // Caddy does not export it
		return int(exit.FieldByName("ExitCode").Int())
	}
	return exitFailed
}

func TestEachCommandHasItsHelp(t *testing.T) {
	docs := regexp.MustCompile(`\nhttps://github\.com/caddy-intercom/caddy-intercom-webhook/blob/main/docs/[a-z]+\.md(#[a-z-]+)?\n$`)
	var printed bytes.Buffer
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		printed.Reset()
		if err := cmd.Help(); err != nil || !docs.MatchString(printed.String()) {
			t.Errorf("%s: the help does not end with a link to our docs: error %v\n%s", cmd.CommandPath(), err, &printed)
		}
		for _, sub := range cmd.Commands() {
			if sub.Name() == "" || sub.Short == "" || !strings.Contains(sub.Long, "\nExamples:\n\n\t$ caddy intercom-webhook ") || strings.Contains(sub.Long, "{{") {
				t.Errorf("%s: %q, %q, %s", sub.CommandPath(), sub.Use, sub.Short, sub.Long)
			}
			check(sub)
		}
	}
	root := &cobra.Command{Use: "intercom-webhook"}
	AddCommands(root)
	root.SetOut(&printed)
	check(root)
	for name, says := range map[string]string{
		"listen": fmt.Sprintf("Up to %d are sent at the same time", maxForwards),
		"verify": fmt.Sprintf("A body may have %d MiB", maxVerified>>20),
	} {
		if !strings.Contains(helpText(name), says) {
			t.Errorf("the help of %s does not say %q", name, says)
		}
	}
	if !strings.Contains(helpText("verify"), fmt.Sprintf("%d at most", maxSecrets)) {
		t.Error("the help of verify does not say how many secrets are tried")
	}
}
