package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"go.uber.org/zap"
)

const (
	// maxSecretFile is the size of the largest file that is accepted, in bytes. Caddy's
	// own {file.*} has the same limit.
	maxSecretFile = 1 << 20

	// maxSecretsInFile limits the work for a wrong signature, and the values of a
	// metric's label, if the config names a wrong file.
	maxSecretsInFile = 100
)

var (
	errSecretFileEmpty = errors.New("the file has no secret")
	errSecretFileKind  = errors.New("not a regular file")
	errSecretFileSize  = fmt.Errorf("the file is larger than %d bytes", maxSecretFile)
	errSecretFileLines = fmt.Errorf("the file has more than %d lines with a secret", maxSecretsInFile)
	errBlankInside     = errors.New("a blank or an invisible character is inside, which no secret of Intercom has: copy it again from the page of Intercom that shows it")
)

// secretFile is a file with one secret a line.
type secretFile struct {
	path    string
	trouble string // why the last check could not read it, empty if it could
}

// follow reads the file. Its size, time and inode say too little: `cp -p` leaves all three as
// they were. It returns true and the secrets if they have changed, or if the file is readable
// again. It logs that, and each trouble once.
func (f *secretFile) follow(before []string, option string, logger *zap.Logger) (secrets []string, changed bool) {
	secrets, err := f.read()
	if err != nil {
		if f.trouble != err.Error() {
			logger.Warn("file of "+option+" could not be read; the secrets that were read before stay in use",
				zap.String("file", f.path), zap.Error(err))
		}
		f.trouble = err.Error()
		return nil, false
	}
	if f.trouble == "" && slices.Equal(secrets, before) {
		return nil, false
	}
	f.trouble = ""
	logger.Info("file of "+option+" was read again", zap.String("file", f.path), zap.Int("secrets", len(secrets)))
	return secrets, true
}

// read returns the secrets in the file.
func (f *secretFile) read() ([]string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a named pipe could block for ever
		return nil, errSecretFileKind
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return nil, err
	}
	return Parse(content)
}

// Parse returns the secrets in the content of a file, one a line: at least one. Lines that are
// blank, and comments, which begin with #, have none.
func Parse(content []byte) ([]string, error) {
	if len(content) > maxSecretFile {
		return nil, errSecretFileSize
	}
	var secrets []string
	number := 0
	for line := range bytes.Lines(content) {
		number++
		text := strings.TrimFunc(string(line), invisible)
		if text == "" || text[0] == '#' {
			continue
		}
		secret, err := Clean(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		secrets = append(secrets, secret)
	}
	switch {
	case len(secrets) == 0:
		return nil, errSecretFileEmpty
	case len(secrets) > maxSecretsInFile:
		return nil, errSecretFileLines
	}
	return secrets, nil
}

// Clean returns a secret without the line breaks and blanks around it, which files and
// variables often have. One with blanks inside is refused: with it, no signature would fit.
func Clean(text string) (string, error) {
	text = strings.TrimFunc(text, invisible)
	if strings.ContainsFunc(text, invisible) {
		return "", errBlankInside
	}
	return text, nil
}

// invisible reports whether nobody sees the character: blanks of all kinds, control characters,
// and the byte order mark with which some editors begin a file.
func invisible(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }
