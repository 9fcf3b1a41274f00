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
	// lookInterval is the least time between two looks at the files, and the longest
	// that requests wait for one, because a file system can hang.
	lookInterval = time.Second

	// maxSecretFile is the size of the largest file that is read, in bytes, as for
	// Caddy's own {file.*}.
	maxSecretFile = 1 << 20

	// maxSecretsInFile bounds the work for a wrong signature, and the values of a
	// metric's label, if the wrong file is named.
	maxSecretsInFile = 100

	// timeGranularity is that of the coarsest modification times of files (FAT has 2 s).
	timeGranularity = 2 * time.Second
)

var (
	errNoSecret        = errors.New("client_secret is missing: give the client secret of the app, from Developer Hub > Basic information")
	errSecretFileEmpty = errors.New("the file has no secret in it")
	errSecretFileKind  = errors.New("not a regular file")
	errSecretFileSize  = fmt.Errorf("the file is larger than %d bytes", maxSecretFile)
	errSecretFileLines = fmt.Errorf("the file has more than %d lines with a secret", maxSecretsInFile)
)

var (
	// tellable is a placeholder whose name may be told.
	tellable = regexp.MustCompile(`\{(env|file)\.[^{}]*\}`)

	// onlyFile is a secret that follows its file.
	onlyFile = regexp.MustCompile(`^\{file\.([^{}]+)\}$`)
)

// clientSecrets are the secrets that may have signed a request. Those that were read
// from a file follow it: they are read again when it has changed.
type clientSecrets struct {
	logger  *zap.Logger
	sources []secretSource // in the order of the config
	follows bool           // whether there is a file among them
	keys    atomic.Pointer[[]map[*scheme]*macPool]

	mu     sync.Mutex
	latest *look // the one under way, or else the last one; nil before the first
}

// secretSource is one argument of client_secret. Only the look under way uses it.
type secretSource struct {
	secrets []string
	file    *secretFile // nil if the secrets never change
}

// newClientSecrets returns the secrets that the arguments of client_secret stand for.
// They are not kept in an exported field, which would show them in Caddy's /config/
// and in traces.
func newClientSecrets(configured []string, logger *zap.Logger) (*clientSecrets, error) {
	if len(configured) == 0 {
		return nil, errNoSecret
	}
	s := &clientSecrets{logger: logger}
	for i, text := range configured {
		source, err := newSecretSource(text)
		if err != nil {
			return nil, fmt.Errorf("client_secret %d: %w", i+1, err)
		}
		if strings.TrimSpace(source.secrets[0]) == "" {
			return nil, fmt.Errorf("client_secret %d is empty", i+1)
		}
		if source.file == nil && source.secrets[0] == text {
			logger.Warn("client_secret stands in the config itself, where /config/ and the autosave show it; better is {env.NAME} or {file./path}",
				zap.Int("secret", i+1))
		}
		s.sources = append(s.sources, source)
		s.follows = s.follows || source.file != nil
	}
	s.use()
	return s, nil
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

// expandSecret replaces the placeholders. An unset variable must be an error: an empty
// key is one that everybody knows.
func expandSecret(text string) (string, error) {
	secret, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		// not its text, which quotes all that is in braces, be it a secret
		names := strings.Join(tellable.FindAllString(text, -1), " ")
		return "", fmt.Errorf("no value for %s: is the variable set, the file there?", cmp.Or(names, "what is in braces"))
	}
	return secret, nil
}

// use puts the secrets of all sources in place of those in use.
func (s *clientSecrets) use() {
	var all []string
	for _, source := range s.sources {
		all = append(all, source.secrets...)
	}
	for i := range all { // from now on, so that one that is never used shows as 0
		secretMatches(i)
	}
	keys := newKeys(all)
	s.keys.Store(&keys)
}

// secretMatches returns the counter of the secret at a place.
func secretMatches(place int) prometheus.Counter {
	return secretMatchesTotal.WithLabelValues(strconv.Itoa(place + 1))
}

// look is one look at all the files.
type look struct {
	began time.Time
	done  chan struct{} // closed when the look has ended
	late  sync.Once     // for the warning that it has not
}

// current returns the keys in use, by the place of their secret. If the last look at
// the files is a second old, it first looks again. A request that comes meanwhile
// waits for that look too, because it may be signed with a secret just added.
func (s *clientSecrets) current() []map[*scheme]*macPool {
	if s.follows {
		s.wait(s.dueLook())
	}
	return *s.keys.Load()
}

// dueLook returns the look that a request has to wait for, and begins it if it is due.
// There is never more than one under way.
func (s *clientSecrets) dueLook() *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil || s.latest.ended() && time.Since(s.latest.began) >= lookInterval {
		s.latest = &look{began: time.Now(), done: make(chan struct{})}
		go s.look(s.latest)
	}
	return s.latest
}

func (l *look) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// wait returns when the look has ended, or takes too long. Then the secrets stay as
// they are, and no more requests wait.
func (s *clientSecrets) wait(l *look) {
	if l.ended() {
		return
	}
	select {
	case <-l.done:
	case <-time.After(time.Until(l.began.Add(lookInterval))):
		l.late.Do(func() {
			s.logger.Warn("files of client_secret cannot be looked at: the file system does not answer; the secrets stay as they are",
				zap.Duration("waited", lookInterval))
		})
	}
}

// look reads again the files that have changed.
func (s *clientSecrets) look(l *look) {
	defer close(l.done)
	changed := false
	for i := range s.sources {
		source := &s.sources[i]
		if source.file == nil {
			continue
		}
		if secrets, read := source.file.follow(source.secrets, s.logger); read {
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
	trouble string      // why it could not be read at the last look
}

// fileVersion tells whether a file has changed since it was read.
type fileVersion struct {
	fs.FileInfo

	// settled is false if the file was so new when it was read that a later change
	// may have left it with the same time.
	settled bool
}

func (v fileVersion) is(info fs.FileInfo) bool {
	return v.FileInfo != nil && os.SameFile(v.FileInfo, info) && v.ModTime().Equal(info.ModTime()) && v.Size() == info.Size()
}

// follow returns the secrets that are in the file now, and true, if it was written
// since it was read last, or can be read again. It logs that, and each trouble once.
func (f *secretFile) follow(before []string, logger *zap.Logger) (secrets []string, read bool) {
	last := f.version
	info, err := os.Stat(f.path)
	if err == nil && f.trouble == "" && last.settled && last.is(info) {
		return nil, false
	}
	secrets, err = f.read()
	if err != nil {
		if f.trouble != err.Error() {
			logger.Warn("file of client_secret cannot be used, and what was read before stays",
				zap.String("file", f.path), zap.Error(err))
		}
		f.trouble = err.Error()
		return nil, false
	}
	if f.trouble == "" && last.is(f.version.FileInfo) && slices.Equal(secrets, before) {
		return nil, false // it was read only because it was not settled
	}
	f.trouble = ""
	logger.Info("file of client_secret was read again", zap.String("file", f.path), zap.Int("secrets", len(secrets)))
	return secrets, true
}

// read returns the secrets that are in the file, and remembers its version.
func (f *secretFile) read() ([]string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open a named pipe could take for ever
		return nil, errSecretFileKind
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// The version is of before the content, so that what is written meanwhile is a change.
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

// parseSecretFile returns the secrets of a file's content, of which there is at least one.
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
