package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// secretEnv names the environment variable that holds the client secret.
const secretEnv = "INTERCOM_CLIENT_SECRET"

// secretHelp is the part of a command's help that says where the secret comes from.
const secretHelp = `
The secret is the client secret of the app in Intercom's Developer Hub. It is taken
from the first one given of --secret, --secret-file and the environment variable
` + secretEnv + `. Other users of the machine may see the value of the flag
in the list of processes, so prefer the other two. A secret file may have several
secrets, one a line, as for client_secret.
`

func addSecretFlags(flags *pflag.FlagSet) {
	flags.String("secret", "", "Client secret (WARNING: other users of the machine can see it in the list of processes)")
	flags.String("secret-file", "", "File with the client secret, or with several, one a line")
}

// clientSecrets returns the keys of the first source of secrets that is given: at least one. An
// empty secret is an error: it is a mistake, and the user did not mean the secret of the next
// source. A warning is written if other users can see the secret.
func clientSecrets(r *run) ([]*signature.Key, error) {
	var secrets []string
	var source string
	switch env, inEnv := os.LookupEnv(secretEnv); {
	case r.Changed("secret"):
		fmt.Fprintln(r.notes, "warning: other users of this machine can see the value of --secret in the list of processes; use --secret-file or "+secretEnv)
		secrets, source = []string{r.String("secret")}, "--secret"
	case r.Changed("secret-file"):
		content, err := os.ReadFile(r.String("secret-file"))
		if err != nil {
			return nil, usagef("reading the client secret of --secret-file: %w", err)
		}
		for line := range strings.Lines(string(content)) { // as client_secret reads it
			secrets = append(secrets, strings.TrimSpace(line))
		}
		source = "the file of --secret-file"
	case inEnv:
		secrets, source = []string{env}, secretEnv
	default:
		return nil, usagef("no client secret: give it with --secret, --secret-file or the environment variable %s", secretEnv)
	}
	var keys []*signature.Key
	for _, secret := range secrets {
		if secret != "" {
			keys = append(keys, signature.NewKey(secret))
		}
	}
	if len(keys) == 0 {
		return nil, usagef("the client secret of %s is empty: it is on the app's Basic information page in Intercom's Developer Hub", source)
	}
	return keys, nil
}
