package intercomwebhook

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func TestCommandIsRegistered(t *testing.T) {
	command, registered := caddycmd.Commands()["intercom-webhook"]
	if !registered {
		t.Fatal("is not registered")
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := &cobra.Command{Use: command.Name, Long: command.Long}
		command.CobraFunc(cmd)
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		err := cmd.Execute()
		return out.String(), err
	}
	if out, err := run(); err != nil || !strings.Contains(out, "Sends a signed notification") {
		t.Errorf("without a command: error %v, output %q", err, out)
	}
	if _, err := run("sned"); err == nil {
		t.Error("an unknown command is no error")
	}
}
