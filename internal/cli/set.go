package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
)

// setFields changes fields of a body, each as <field>=<value>, and leaves the order of the others.
func setFields(body []byte, changes []string) ([]byte, error) {
	for _, change := range changes {
		path, value, found := strings.Cut(change, "=")
		err := fields.CheckPath(path)
		switch {
		case !found:
			err = fmt.Errorf("--set %q has no value: give a field and a value, as in data.item.state=closed", change)
		case err != nil:
			err = fmt.Errorf("--set: %w", err)
		default:
			if body, err = setField(body, strings.Split(path, "."), value); err != nil {
				err = fmt.Errorf("--set %s: %w", path, err)
			}
		}
		if err != nil {
			return nil, usageError{err}
		}
	}
	return body, nil
}

// setField returns a JSON value with another value at a path. Objects on the way are made if they
// are missing, and an array can get one element more.
func setField(old json.RawMessage, path []string, value string) (json.RawMessage, error) {
	if len(path) == 0 {
		return newValue(old, value), nil
	}
	name, missing := path[0], len(old) == 0 || string(old) == "null"
	if name == "*" {
		return nil, fmt.Errorf("name one element by its number in place of *")
	}
	if missing {
		old = json.RawMessage("{}")
	}
	decoder := json.NewDecoder(bytes.NewReader(old))
	opening, err := decoder.Token()
	if err != nil || opening != json.Delim('{') && opening != json.Delim('[') {
		return nil, fmt.Errorf("what %s should be in is no object and no array", name)
	}
	var parts [][]byte // members or elements
	found := false
	for decoder.More() {
		key := strconv.Itoa(len(parts))
		var prefix []byte
		if opening == json.Delim('{') {
			token, _ := decoder.Token() // of valid JSON
			key, _ = token.(string)
			prefix = append(encoded(key), ':')
		}
		var part json.RawMessage
		if err := decoder.Decode(&part); err != nil {
			return nil, err
		}
		if key == name {
			found = true
			if part, err = setField(part, path[1:], value); err != nil {
				return nil, err
			}
		}
		parts = append(parts, append(prefix, part...))
	}
	if !found {
		part, err := setField(nil, path[1:], value)
		switch {
		case err != nil:
			return nil, err
		case opening == json.Delim('{'):
			part = append(append(encoded(name), ':'), part...)
		case name != strconv.Itoa(len(parts)):
			return nil, fmt.Errorf("%s is no place in an array of %d", name, len(parts))
		}
		parts = append(parts, part)
	}
	joined := bytes.Join(parts, []byte(","))
	if opening == json.Delim('{') {
		return fmt.Appendf(nil, "{%s}", joined), nil
	}
	return fmt.Appendf(nil, "[%s]", joined), nil
}

// newValue returns the value as JSON: as text if it is none, or if the old value is text.
func newValue(old json.RawMessage, value string) json.RawMessage {
	if json.Valid([]byte(value)) && !bytes.HasPrefix(old, []byte(`"`)) {
		return json.RawMessage(value)
	}
	return encoded(value)
}

// encoded returns a text as JSON, without escapes that it does not need.
func encoded(text string) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // cannot fail
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}
