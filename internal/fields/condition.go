package fields

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// MaxConditions is how many conditions one list of them may have.
const MaxConditions = 32

// maxPath is the longest path of a field, in bytes.
const maxPath = 255

// CheckPath returns an error if the path of a field is malformed. A path has the names of
// keys, joined by dots, from the top of the body. A number is the index of an element of an
// array, from 0, or a key. A * is any element of an array or an object.
func CheckPath(path string) error {
	if path == "" {
		return errors.New("the field is missing; name it from the top of the body, as in data.item.state")
	}
	if len(path) > maxPath {
		return fmt.Errorf("the path of a field has at most %d bytes", maxPath)
	}
	for segment := range strings.SplitSeq(path, ".") {
		switch {
		case segment == "":
			return fmt.Errorf("field %q: empty segment; a path has the form data.item.state", path)
		case strings.Contains(segment, "*") && segment != "*":
			return fmt.Errorf("field %q: a * must be a whole segment, as in data.item.tags.tags.*.name", path)
		}
		for _, c := range segment {
			if unicode.IsSpace(c) || !unicode.IsPrint(c) || strings.ContainsRune("=!|<>{}\"`\\,\ufffd", c) {
				return fmt.Errorf("field %q: %q cannot be in a path, which has the form data.item.state", path, c)
			}
		}
	}
	return nil
}

// condition is what a field must be.
type condition struct {
	path   string
	values []string // nil: the field must be there, and not null
	not    bool     // it must be none of the values
}

// CheckCondition returns an error if a condition is malformed. It has one of the forms
// <field>=<value>[|<value>...], <field>!=<value>[|<value>...] and <field>.
func CheckCondition(text string) error {
	_, err := parseCondition(text)
	return err
}

func parseCondition(text string) (c condition, err error) {
	path, values, compares := strings.Cut(text, "=")
	if compares {
		c.values = strings.Split(values, "|")
		path, c.not = strings.CutSuffix(path, "!")
	}
	c.path = path
	if err := CheckPath(path); err != nil {
		if strings.ContainsAny(path, "<>!") {
			err = fmt.Errorf("%w; a condition compares with = or !=", err)
		}
		return c, fmt.Errorf("condition %q: %w", text, err)
	}
	for i, value := range c.values {
		switch {
		case value == "" && len(c.values) > 1:
			err = errors.New("a value between | is empty")
		case slices.Contains(c.values[:i], value):
			err = fmt.Errorf("value %q is given twice", value)
		case strings.HasPrefix(value, `"`), strings.HasPrefix(value, "`"):
			err = errors.New("the quotes would be part of the value: put them around the whole condition, or leave them out")
		case strings.HasPrefix(value, "="):
			err = errors.New("a condition compares with = or !=, not with ==")
		case placeholder.MatchString(value):
			err = errors.New("placeholders are not expanded in a condition; {$NAME} in a Caddyfile is, when it is read")
		}
		if err != nil {
			return c, fmt.Errorf("condition %q: %w", text, err)
		}
	}
	return c, nil
}

var placeholder = regexp.MustCompile(`\{[a-z_]+\.[^{}]+\}`)
