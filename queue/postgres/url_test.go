package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"postgres://u:p@host:5432/queue":                        "PostgreSQL at host:5432, database queue",
		"postgresql://host/queue":                               "PostgreSQL at host, database queue",
		"postgres://u:p%40b@host/queue?sslmode=disable":         "PostgreSQL at host, database queue",
		"postgres://u:a:b@host-1:1,host-2:2/queue":              "PostgreSQL at host-1:1,host-2:2, database queue",
		"postgres://u@[::1]:5432/my%20queue":                    "PostgreSQL at [::1]:5432, database my%20queue",
		"postgres://u@/queue?host=/var/run/postgresql":          "PostgreSQL at /var/run/postgresql, database queue",
		"postgres://h/queue?pool_max_conns=3&connect_timeout=9": "PostgreSQL at h, database queue",
	} {
		if _, name, err := parseURL(text); err != nil || name != want {
			t.Errorf("%s: got %q, %v, want %q", text, name, err, want)
		}
	}
}

// Whatever is wrong with a URL, no part of the secret is printed, and no host is looked up.
func TestMalformedURLs(t *testing.T) {
	for text, want := range map[string]error{
		"postgres://":                                                       errNoDatabase,
		"postgres://host":                                                   errNoDatabase,
		"postgres://host/":                                                  errNoDatabase,
		"postgres://user@host":                                              errNoDatabase,
		"postgres://user:secret@host":                                       errNoDatabase,
		"postgres://user:secret@host:5432/":                                 errNoDatabase,
		"postgres://user:secret@host?sslmode=disable":                       errNoDatabase,
		"postgres://user:secret@/queue":                                     errNoHost,
		"postgres:///queue":                                                 errNoHost,
		"postgres://user:a@secret@host/queue":                               errURL,
		"postgres://user:12/secret@host/queue":                              errURL,
		"postgres://user:12?secret@host/queue":                              errURL,
		"postgres://user:12#secret@host/queue":                              errURL,
		"postgres://user:sec ret@host/queue":                                errURL,
		"postgres://user:secret%@host/queue":                                errURL,
		"postgres://user:secret/queue":                                      errURL,
		"postgres://user:secret@host/queue/more":                            errURL,
		"postgres://user:secret@host:port/queue":                            errURL,
		"postgres://user:secret@host:99999/queue":                           errURL,
		"postgres://user:secret@-host/queue":                                errURL,
		"postgres://user:secret@host,/queue":                                errURL,
		"postgres://user:secret@host/queue?host=other":                      errURL,
		"postgres://user:secret@/queue?host=other":                          errURL,
		"postgres://user:secret@host/que@ue":                                errURL,
		"postgres://12:34/x?y=secret@host/queue":                            errURL,
		"postgres:/user:secret@host/queue":                                  errURL,
		"user=secret host=secret dbname=queue":                              errURL,
		"mysql://user:secret@host/queue":                                    errURL,
		"secret":                                                            errURL,
		"postgres://u:secret@h/queue?pool_max_conns=2":                      errConns,
		"postgres://u:secret@h/queue?password=secret":                       nil,
		"postgres://u:secret@h/queue?secret=1":                              nil,
		"postgres://u:secret@h/queue?sslmode=secret":                        nil,
		"postgres://u:secret@h/queue?sslmode=disable&sslmode=secret":        nil,
		"postgres://u:secret@h/queue?sslmode=verify-ca&sslrootcert=/secret": nil,
		"postgres://u:secret@h/queue?pool_max_conns=secret":                 nil,
		"postgres://u:secret@h/queue?target_session_attrs=secret":           nil,
	} {
		_, name, err := parseURL(text)
		if err == nil || want != nil && err != want || name != "" { //nolint:errorlint // it is the very error
			t.Errorf("%s: got %q, %v, want %v", text, name, err, want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: printed %v", text, err)
		}
	}
}

func TestServersToConnectTo(t *testing.T) {
	for text, readWrite := range map[string]bool{
		"postgres://u@a/db":                            false,
		"postgres://u@a/db?sslmode=prefer":             false,
		"postgres://u@a,b/db":                          true,
		"postgres://u@a:1,a:2/db":                      true,
		"postgres://u@a,b/db?target_session_attrs=any": false,
	} {
		config, _, err := parseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := config.ConnConfig.ValidateConnect != nil; got != readWrite {
			t.Errorf("%s: wants a server that can be written to: %v", text, got)
		}
	}
}

func TestConnections(t *testing.T) {
	for text, want := range map[string]int32{"postgres://h/d": defaultConnections, "postgres://h/d?pool_max_conns=3": 3, "postgres://h/d?pool_max_conns=30": 30} {
		config, name, err := parseURL(text)
		if err != nil || config.MaxConns != want {
			t.Fatalf("%s: %v, %v", text, config.MaxConns, err)
		}
		c, err := newClient(t.Context(), config, name, "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.pool.Close()
		if c.storing.all < 2 || c.working.all < 1 || c.storing.all+c.working.all != int64(want) {
			t.Errorf("%s: %d and %d", text, c.storing.all, c.working.all)
		}
	}
}

func TestPasswordInURL(t *testing.T) {
	for text, want := range map[string]bool{
		"postgres://u:p@h/d": true, "postgres://u@h/d": false, "postgres://u:{env.P}@h/d": false, "{env.URL}": false, "postgres://h/d?sslpassword=x": true,
		"postgres://u:p@{env.HOST}/d": true, "postgres://{env.USER}:p@{env.HOST}:5432/d?sslmode={env.MODE}": true, "postgres://u:a{env.P}@h/d": true,
		"postgres://{env.USER}:{file./run/secrets/p}@{env.HOST}/d": false, "postgres://u@{env.HOST}/d?sslmode=require": false, "postgres://h/d?sslpassword={env.P}": false,
	} {
		if got := hasPassword(text); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestURLsThatLeaveTheMachineInTheClear(t *testing.T) {
	for text, want := range map[string]bool{
		"postgres://u:p@db/d":                               true, // the default, prefer, goes on without
		"postgres://u:p@db/d?sslmode=disable":               true,
		"postgres://u:p@db/d?sslmode=allow":                 true,
		"postgres://u:p@db/d?sslmode=prefer":                true,
		"postgres://u:p@db/d?sslmode=require":               false,
		"postgres://u:p@db/d?sslmode=verify-full":           false,
		"postgres://u:p@192.0.2.1:5432/d":                   true,
		"postgres://u:p@localhost,db:5432/d":                true,
		"postgres://u:p@127.0.0.1,db/d?sslmode=verify-full": false,
		"postgres://u:p@localhost/d":                        false,
		"postgres://u:p@127.0.0.1:5432/d?sslmode=disable":   false,
		"postgres://u:p@[::1]/d":                            false,
		"postgres://u:p@[2001:db8::1]/d":                    true,
		"postgres:///d?host=/var/run/postgresql":            false,
		"postgres://u:p@localhost.example.com/d":            true,
		"malformed":                                         false,
	} {
		if got := isExposed(text); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestTopicExpression(t *testing.T) {
	for pattern, want := range map[string]string{
		"*": `^.*$`, "a.b": `^a\.b$`, "conversation.*": `^conversation\..*$`, "a.*.c": `^a\.[^.]*\.c$`,
	} {
		if got := topicExpression(pattern); got != want {
			t.Errorf("%s: %s", pattern, got)
		}
	}
}
