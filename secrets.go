package intercomwebhook

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

const (
	// checkInterval is the shortest time between two checks of the files. It is also the
	// longest time that a request waits for a check, because a file system can hang.
	checkInterval = time.Second

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
	errNoSecret        = errors.New("client_secret is missing: give the client secret of the app, from Developer Hub > Basic information")
	errSecretFileEmpty = errors.New("the file has no secret")
	errSecretFileKind  = errors.New("not a regular file")
	errSecretFileSize  = fmt.Errorf("the file is larger than %d bytes", maxSecretFile)
	errSecretFileLines = fmt.Errorf("the file has more than %d lines with a secret", maxSecretsInFile)
)

var (
	// printable matches placeholders that may be printed.
	printable = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)

	// onlyFile matches a value that is a single {file.*}.
	onlyFile = regexp.MustCompile(`^\{file\.([^{}]+)\}$`)
)

// clientSecrets are the secrets that may sign requests, or that sign copies. A file with
// secrets is read again when it has changed.
type clientSecrets struct {
	option  string // that they are given with, for logs
	logger  *zap.Logger
	sources []secretSource // in the order of the config
	follows bool           // whether one of them is a file
	keys    atomic.Pointer[[]map[*scheme]*macPool]

	mu     sync.Mutex
	latest *fileCheck // the current or last one; nil before the first
}

// secretSource is one value of client_secret. Only the current check uses it.
type secretSource struct {
	secrets []string
	file    *secretFile // nil if the secrets never change
}

// newClientSecrets reads the secrets that the values of client_secret mean. The caller must
// not store them in an exported field, because /config/ and traces show those.
func newClientSecrets(configured []string, logger *zap.Logger) (*clientSecrets, error) {
	if len(configured) == 0 {
		return nil, errNoSecret
	}
	s := &clientSecrets{option: "client_secret", logger: logger}
	for i, text := range configured {
		if err := s.add(fmt.Sprintf("client_secret %d", i+1), text); err != nil {
			return nil, err
		}
	}
	s.use()
	return s, nil
}

// newSigningSecret reads the secret that signs a copy. Of a file with several, it is the
// first one.
func newSigningSecret(text string, logger *zap.Logger) (*clientSecrets, error) {
	s := &clientSecrets{option: "resign", logger: logger}
	if err := s.add("resign", text); err != nil {
		return nil, err
	}
	s.use()
	return s, nil
}

// add reads the secrets that a value of the config means. The name of the value is for
// errors.
func (s *clientSecrets) add(name, text string) error {
	source, err := newSecretSource(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if strings.TrimSpace(source.secrets[0]) == "" {
		return fmt.Errorf("%s is empty", name)
	}
	s.sources = append(s.sources, source)
	s.follows = s.follows || source.file != nil
	if source.file == nil && source.secrets[0] == text {
		s.logger.Warn(s.option+" is in the config itself, where /config/ and the autosave show it; use {env.NAME} or {file./path} instead",
			zap.Int("secret", len(s.sources)))
	}
	return nil
}

func newSecretSource(text string) (secretSource, error) {
	if match := onlyFile.FindStringSubmatch(text); match != nil {
		file := &secretFile{path: match[1]}
		secrets, err := file.read()
		return secretSource{secrets, file}, err
	}
	secret, err := expandSecret(text)
	return secretSource{secrets: []string{secret}}, err
}

// expandSecret replaces the placeholders. An unset variable must be an error, because
// everybody knows the empty key.
func expandSecret(text string) (string, error) {
	secret, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		// The text of err is not used: it quotes everything in braces, which may be a secret.
		names := strings.Join(printable.FindAllString(text, -1), " ")
		return "", fmt.Errorf("no value for %s: set the variable, or create the file", cmp.Or(names, "a placeholder"))
	}
	return secret, nil
}

// use puts the secrets of all sources into use.
func (s *clientSecrets) use() {
	var all []string
	for _, source := range s.sources {
		all = append(all, source.secrets...)
	}
	for i := range all {
		if s.option == "client_secret" {
			secretMatches(i) // so that the counter of a secret that is never used is 0
		}
	}
	keys := newKeys(all)
	s.keys.Store(&keys)
}

// secretMatches returns the counter of the secret at a place, counted from 0.
func secretMatches(place int) prometheus.Counter {
	return secretMatchesTotal.WithLabelValues(strconv.Itoa(place + 1))
}

// fileCheck is one check of all files for changes.
type fileCheck struct {
	began time.Time
	done  chan struct{} // closed when the check has ended
	late  sync.Once     // for the warning that it takes too long
}

// current returns the keys in use, by the place of their secret. If the last check of the
// files is older than a second, it checks them first. Other requests wait for the same check,
// because they may be signed with a secret that was just added.
func (s *clientSecrets) current() []map[*scheme]*macPool {
	if s.follows {
		s.wait(s.dueCheck())
	}
	return *s.keys.Load()
}

// dueCheck returns the check that a request must wait for. It starts a new one if the last
// one is too old. Only one check runs at a time.
func (s *clientSecrets) dueCheck() *fileCheck {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil || s.latest.ended() && time.Since(s.latest.began) >= checkInterval {
		s.latest = &fileCheck{began: time.Now(), done: make(chan struct{})}
		go s.checkFiles(s.latest)
	}
	return s.latest
}

func (c *fileCheck) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait returns when the check has ended, or after checkInterval. A check that takes longer
// leaves the secrets as they are, and later requests do not wait for it.
func (s *clientSecrets) wait(c *fileCheck) {
	if c.ended() {
		return
	}
	select {
	case <-c.done:
	case <-time.After(time.Until(c.began.Add(checkInterval))):
		c.late.Do(func() {
			s.logger.Warn("files of "+s.option+" could not be checked: the file system does not answer; the secrets stay as they are",
				zap.Duration("waited", checkInterval))
		})
	}
}

// checkFiles reads the files that have changed.
func (s *clientSecrets) checkFiles(c *fileCheck) {
	defer close(c.done)
	changed := false
	for i := range s.sources {
		source := &s.sources[i]
		if source.file == nil {
			continue
		}
		if secrets, read := source.file.follow(source.secrets, s.option, s.logger); read {
			source.secrets, changed = secrets, true
		}
	}
	if changed {
		s.use()
	}
}

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
