package cli

import (
	"encoding/json"
	"io"
)

// printJSON prints a value as one line.
func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
