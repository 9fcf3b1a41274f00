//go:build postgres

package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const pgPassword = "hunter2-of-the-tests"

// pgServer is a PostgreSQL of a test's own, whose roles and settings it may change.
type pgServer struct {
	testing.TB
	bin, dir string
	address  string
	user     *syscall.Credential // as PostgreSQL refuses to be root; nil if this process is not
	process  *exec.Cmd
}

func startPgServer(t testing.TB) *pgServer {
	t.Helper()
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(installed) == 0 {
		t.Fatal("PostgreSQL is not installed, which .ci/postgres does")
	}
	s := &pgServer{TB: t, bin: filepath.Dir(installed[len(installed)-1]), address: pgFreeAddress(t)}
	s.dir, s.user = pgDir(t)
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(pgPassword), 0o644); err != nil {
		t.Fatal(err)
	}
	output, err := s.command(filepath.Join(s.bin, "initdb"), "-D", filepath.Join(s.dir, "data"), "-U", "postgres",
		"-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--no-locale", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v: %s", err, output)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// pgDir makes a folder of which PostgreSQL's user is the owner.
func pgDir(t testing.TB) (string, *syscall.Credential) {
	t.Helper()
	dir, err := os.MkdirTemp("", "queue") // t.TempDir is for root only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() != 0 {
		return dir, nil
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(postgres.Uid)
	gid, _ := strconv.Atoi(postgres.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return dir, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func pgFreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (s *pgServer) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	return cmd
}

func (s *pgServer) start() {
	s.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	s.process = s.command(filepath.Join(s.bin, "postgres"), "-D", filepath.Join(s.dir, "data"), "-p", port,
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off")
	if err := s.process.Start(); err != nil {
		s.Fatalf("starting PostgreSQL: %v", err)
	}
	pgWaitFor(s, s.url("postgres", "postgres"))
}

// stop ends the server as pg_ctl's immediate mode does.
func (s *pgServer) stop() {
	_ = s.process.Process.Signal(syscall.SIGQUIT)
	_ = s.process.Wait()
}

// pgWaitFor returns when the server answers.
func pgWaitFor(t testing.TB, url string) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var conn *pgx.Conn
		if conn, err = pgx.Connect(context.Background(), url); err == nil {
			_, err = conn.Exec(context.Background(), "SELECT 1")
			conn.Close(context.Background())
			if err == nil {
				return
			}
		}
	}
	t.Fatalf("it does not answer: %v", err)
}

func (s *pgServer) url(user, database string) string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s", user, pgPassword, s.address, database)
}

func (s *pgServer) run(database string, statements ...string) {
	s.Helper()
	conn, err := pgx.Connect(context.Background(), s.url("postgres", database))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			s.Fatalf("%s: %v", statement, err)
		}
	}
}

// startPgBouncer starts Debian's PgBouncer, with its own settings but for the mode. In
// transaction mode it has fewer connections than the engine, so that each is used for many of
// its sessions.
func startPgBouncer(s *pgServer, mode string, size int) (url string) {
	s.Helper()
	bouncer, err := exec.LookPath("pgbouncer")
	if err != nil {
		s.Fatal("PgBouncer is not installed, which .ci/postgres does")
	}
	address := pgFreeAddress(s)
	_, port, _ := net.SplitHostPort(address)
	serverHost, serverPort, _ := net.SplitHostPort(s.address)
	config := filepath.Join(s.dir, "pgbouncer-"+port+".ini")
	users := filepath.Join(s.dir, "users-"+port+".txt")
	for path, text := range map[string]string{
		users: fmt.Sprintf("\"postgres\" \"%s\"\n", pgPassword),
		config: fmt.Sprintf("[databases]\nqueue = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n"+
			"auth_type = plain\nauth_file = %s\npool_mode = %s\ndefault_pool_size = %d\n", serverHost, serverPort, port, users, mode, size),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.Fatal(err)
		}
	}
	process := s.command(bouncer, config)
	if err := process.Start(); err != nil {
		s.Fatalf("starting PgBouncer: %v", err)
	}
	s.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	pgWaitFor(s, fmt.Sprintf("postgres://postgres:%s@%s/queue?default_query_exec_mode=exec", pgPassword, address))
	return fmt.Sprintf("postgres://postgres:%s@%s/queue", pgPassword, address)
}

// text returns the only value that a statement selects.
func (s *pgServer) text(database, sql string) (text string) {
	s.Helper()
	conn, err := pgx.Connect(context.Background(), s.url("postgres", database))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), "SELECT ("+sql+")::text").Scan(&text); err != nil {
		s.Fatalf("%s: %v", sql, err)
	}
	return text
}

// waitFor returns when a condition holds.
func (s *pgServer) waitFor(sql string) {
	s.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s.text("postgres", sql) == "true" {
			return
		}
	}
	s.Fatalf("never: %s", sql)
}
