// Package secrets has the secrets that sign requests, and follows the files that they are in.
package secrets

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/signature"
)

// checkInterval is the shortest time between two checks of the files. It is also the
// longest time that a request waits for a check, because a file system can hang.
const checkInterval = time.Second

// ErrMissing is the error for a config without secrets.
var ErrMissing = errors.New("client_secret is missing: give the client secret of the app, from Developer Hub > Basic information")

var (
	// printable matches placeholders that may be printed.
	printable = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)

	// onlyFile matches a value that is a single {file.*}.
	onlyFile = regexp.MustCompile(`^\{file\.([^{}]+)\}$`)
)

// Secrets are the secrets that may sign requests, or that sign copies. A file with secrets
// is followed while it is in use.
type Secrets struct {
	option  string // that they are given with, for logs and errors
	logger  *zap.Logger
	inUse   func(n int)
	sources []secretSource // in the order of the config
	follows bool           // whether one of them is a file
	keys    atomic.Pointer[[]*signature.Key]

	mu     sync.Mutex
	latest *fileCheck // the current or last one; nil before the first
}

// secretSource is one value of the option. Only the current check uses it.
type secretSource struct {
	secrets []string
	file    *secretFile // nil if the secrets never change
}

// New reads the secrets that the values of an option mean. Whenever secrets come into use, it
// calls inUse with their number. The caller must not store secrets in an exported field,
// because /config/ and traces show those.
func New(option string, values []string, logger *zap.Logger, inUse func(n int)) (*Secrets, error) {
	if len(values) == 0 {
		return nil, ErrMissing
	}
	s := &Secrets{option: option, logger: logger, inUse: inUse}
	for i, text := range values {
		if err := s.add(fmt.Sprintf("%s %d", option, i+1), text); err != nil {
			return nil, err
		}
	}
	s.use()
	return s, nil
}

// NewSigning reads the secret that signs in place of another one. Of a file with several, it
// is the first one.
func NewSigning(option, value string, logger *zap.Logger) (*Secrets, error) {
	s := &Secrets{option: option, logger: logger, inUse: func(int) {}}
	if err := s.add(option, value); err != nil {
		return nil, err
	}
	s.use()
	return s, nil
}

// add reads the secrets that a value of the config means. The name of the value is for
// errors.
func (s *Secrets) add(name, text string) error {
	source, err := newSecretSource(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if source.secrets[0] == "" {
		return fmt.Errorf("%s is empty", name)
	}
	s.sources = append(s.sources, source)
	s.follows = s.follows || source.file != nil
	if source.file == nil && !strings.Contains(text, "{") {
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
	return Clean(secret)
}

// use puts the secrets of all sources into use.
func (s *Secrets) use() {
	var keys []*signature.Key
	for _, source := range s.sources {
		for _, secret := range source.secrets {
			keys = append(keys, signature.NewKey(secret))
		}
	}
	s.inUse(len(keys))
	s.keys.Store(&keys)
}

// fileCheck is one check of all files for changes.
type fileCheck struct {
	began time.Time
	done  chan struct{} // closed when the check has ended
	late  sync.Once     // for the warning that it takes too long
}

// Keys returns the keys in use, by the place of their secret. If the last check of the
// files is older than a second, it checks them first. Other requests wait for the same check,
// because they may be signed with a secret that was just added.
func (s *Secrets) Keys() []*signature.Key {
	if s.follows {
		s.wait(s.dueCheck())
	}
	return *s.keys.Load()
}

// dueCheck returns the check that a request must wait for. It starts a new one if the last
// one is too old. Only one check runs at a time.
func (s *Secrets) dueCheck() *fileCheck {
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
func (s *Secrets) wait(c *fileCheck) {
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

// checkFiles reads the files, and puts what has changed into use.
func (s *Secrets) checkFiles(c *fileCheck) {
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
