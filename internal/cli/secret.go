package cli

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/pflag"
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

// clientSecrets returns the secrets from the first source that is given: at least one. An
// empty secret is an error: it is a mistake, and the user did not mean the secret of the next
// source. A warning is written if other users can see the secret.
func clientSecrets(r *run) ([][]byte, error) {
	var secrets [][]byte
	var source string
	switch env, inEnv := os.LookupEnv(secretEnv); {
	case r.Changed("secret"):
		fmt.Fprintln(r.notes, "warning: other users of this machine can see the value of --secret in the list of processes; use --secret-file or "+secretEnv)
		secrets, source = one(r.String("secret")), "--secret"
	case r.Changed("secret-file"):
		content, err := os.ReadFile(r.String("secret-file"))
		if err != nil {
			return nil, usagef("reading the client secret of --secret-file: %w", err)
		}
		secrets, source = secretLines(content), "the file of --secret-file" //nolint:gosec // a name of an option
	case inEnv:
		secrets, source = one(env), secretEnv
	default:
		return nil, usagef("no client secret: give it with --secret, --secret-file or the environment variable %s", secretEnv)
	}
	if len(secrets) == 0 {
		return nil, usagef("the client secret of %s is empty: it is on the app's Basic information page in Intercom's Developer Hub", source)
	}
	return secrets, nil
}

func one(secret string) [][]byte {
	if secret == "" {
		return nil
	}
	return [][]byte{[]byte(secret)}
}

// secretLines returns the lines that are not blank, without the spaces around them. A file
// that client_secret follows has one secret a line, the newest first.
func secretLines(content []byte) [][]byte {
	var secrets [][]byte
	for line := range bytes.Lines(content) {
		if secret := bytes.TrimSpace(line); len(secret) > 0 {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}
