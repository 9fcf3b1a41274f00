package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func newVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify <body>",
		Short: "Tells why the signature of a captured request does not fit",
		Long: `
Checks the signature of a request that was captured: its body is in a file ("-" is
standard input), and --signature has the value of its X-Hub-Signature or
X-Body-Signature. It prints whether the request is genuine: signed with the client
secret, over exactly these bytes.

If it is not, the usual mistakes are tried, and the ones that explain the signature are
printed, with what to do: a line break added or lost at the end, LF and CRLF, a byte order
mark, JSON that was parsed and written again, HMAC-SHA256 in place of HMAC-SHA1, digits in
upper case, base64, a prefix missing or too many, and blanks around the secret. If none
fits, the secret is that of another app or an old one, or the body was changed in another
way.

If a file has several secrets, all of them are tried, and the place of the one that fits
is printed.
` + secretHelp + `
The exit code is 0 if the request is genuine, 1 if it is not, and 2 if the arguments are
wrong.

Examples:

	$ caddy intercom-webhook verify body.json --signature sha1=0b1f… --secret-file /etc/caddy/intercom-secret

	$ caddy intercom-webhook verify - --signature sha1=0b1f… --json < body.json
`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: runE(runVerify),
	}
	flags := cmd.Flags()
	flags.String("signature", "", "Value of the signature header (required)")
	addSecretFlags(flags)
	flags.Bool("json", false, "Print JSON")
	return cmd
}

// errNotGenuine is the error after the reasons have been printed.
var errNotGenuine = errors.New("the request is not genuine as it is")

func runVerify(cmd *cobra.Command, args []string) error {
	fl := caddycmd.Flags{FlagSet: cmd.Flags()}
	signature := fl.String("signature")
	if signature == "" {
		return usagef("no signature: give the value of the request's X-Hub-Signature with --signature")
	}
	secrets, err := clientSecrets(fl, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	body, err := readFile(args[0], cmd.InOrStdin())
	if err != nil {
		return usagef("reading the body: %w", err)
	}
	v := judge(body, signature, secrets)
	if fl.Bool("json") {
		err = printJSON(cmd.OutOrStdout(), v)
	} else {
		v.report(cmd.OutOrStdout(), len(secrets))
	}
	if err == nil && !v.Genuine {
		err = errNotGenuine
	}
	return err
}

// report prints the verdict.
func (v verdict) report(w io.Writer, secrets int) {
	which := ""
	if secrets > 1 && v.Secret > 0 {
		which = fmt.Sprintf(", with secret %d of %d", v.Secret, secrets)
	}
	switch {
	case v.Genuine:
		fmt.Fprintf(w, "genuine: %s fits the body as it is%s\n", v.Header, which)
		if v.Secret > 1 {
			fmt.Fprintln(w, "note: whoever knows only the first secret refuses it")
		}
	case v.Secret > 0:
		fmt.Fprintf(w, "not genuine as it is, but it was signed with the client secret%s:\n", which)
		fallthrough
	case len(v.Mistakes) > 0:
		for _, m := range v.Mistakes {
			fmt.Fprintf(w, "%s: %s\n", m.Kind, m.Text)
		}
	default:
		fmt.Fprintln(w, "not genuine: no usual mistake explains the signature. Either it was made with another secret, "+
			"that of another app or an old one (see Basic information in the Developer Hub), or the body is not the one that was signed.")
	}
}
