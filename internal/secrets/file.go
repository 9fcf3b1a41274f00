package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// maxSecretFile is the size of the largest file that is accepted, in bytes. Caddy's
	// own {file.*} has the same limit.
	maxSecretFile = 1 << 20

	// maxSecretsInFile limits the work for a wrong signature, and the values of a
	// metric's label, if the config names a wrong file.
	maxSecretsInFile = 100

	// timeGranularity is the coarsest one that modification times of files have (2 s on
	// FAT).
	timeGranularity = 2 * time.Second
)

var (
	errSecretFileEmpty = errors.New("the file has no secret")
	errSecretFileKind  = errors.New("not a regular file")
	errSecretFileSize  = fmt.Errorf("the file is larger than %d bytes", maxSecretFile)
	errSecretFileLines = fmt.Errorf("the file has more than %d lines with a secret", maxSecretsInFile)
)

// secretFile is a file with one secret a line.
type secretFile struct {
	path    string
	version fileVersion // as it was read last
	trouble string      // why the last check could not read it, empty if it could
}

// fileVersion identifies the content of a file, to find changes.
type fileVersion struct {
	fs.FileInfo

	// settled is false if the file was so new when it was read that a later change may
	// have the same modification time.
	settled bool
}

func (v fileVersion) is(info fs.FileInfo) bool {
	return v.FileInfo != nil && os.SameFile(v.FileInfo, info) && v.ModTime().Equal(info.ModTime()) && v.Size() == info.Size()
}

// follow reads the file if it may have changed. It returns true and the secrets if they
// are new, or if the file is readable again. It logs that, and each trouble once.
func (f *secretFile) follow(before []string, option string, logger *zap.Logger) (secrets []string, read bool) {
	last := f.version
	info, err := os.Stat(f.path)
	if err == nil && f.trouble == "" && last.settled && last.is(info) {
		return nil, false
	}
	secrets, err = f.read()
	if err != nil {
		if f.trouble != err.Error() {
			logger.Warn("file of "+option+" could not be read; the secrets that were read before stay in use",
				zap.String("file", f.path), zap.Error(err))
		}
		f.trouble = err.Error()
		return nil, false
	}
	if f.trouble == "" && last.is(f.version.FileInfo) && slices.Equal(secrets, before) {
		return nil, false // it has not changed
	}
	f.trouble = ""
	logger.Info("file of "+option+" was read again", zap.String("file", f.path), zap.Int("secrets", len(secrets)))
	return secrets, true
}

// read returns the secrets in the file, and stores its version.
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
	// The version is taken before the content, so that a write in between is found later.
	if info, err = file.Stat(); err != nil {
		return nil, err
	}
	settled := time.Since(info.ModTime()) > timeGranularity
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return nil, err
	}
	secrets, err := parseSecretFile(content)
	if err != nil {
		return nil, err
	}
	f.version = fileVersion{info, settled}
	return secrets, nil
}

// parseSecretFile returns the secrets in the content of a file: at least one.
func parseSecretFile(content []byte) ([]string, error) {
	if len(content) > maxSecretFile {
		return nil, errSecretFileSize
	}
	var secrets []string
	for line := range bytes.Lines(content) {
		if secret := string(bytes.TrimSpace(line)); secret != "" {
			secrets = append(secrets, secret)
		}
	}
	switch {
	case len(secrets) == 0:
		return nil, errSecretFileEmpty
	case len(secrets) > maxSecretsInFile:
		return nil, errSecretFileLines
	}
	return secrets, nil
}
