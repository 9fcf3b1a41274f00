package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// sqlState returns the SQLSTATE of an error that the server sent, or "".
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
func sqlState(err error) string {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		return reply.Code
	}
	return ""
}

// isAborted reports whether the server ended a transaction for the sake of another one:
// nothing is wrong with it, and it can be tried again.
func isAborted(err error) bool {
	code := sqlState(err)
	return code == "40001" || code == "40P01" // serialization_failure, deadlock_detected
}

// hasMoved reports whether the server has ended its role: it is read-only, or shuts down, or
// the connection to it is gone.
func hasMoved(err error) bool {
	// read_only_sql_transaction, admin_shutdown, crash_shutdown, cannot_connect_now, connection exceptions
	return movedPattern.MatchString(sqlState(err))
}

// isFull reports whether the server, or a pooler before it, refuses one more connection.
func isFull(err error) bool {
	reply, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (reply.Code == "53300" || reply.Code == "08P01" && strings.HasPrefix(reply.Message, "no more connections allowed"))
}

var (
	movedPattern = regexp.MustCompile(`^(25006|57P01|57P02|57P03|08...)$`)

	// permanentPattern is the code and the message of errors that opening the database again
	// would only repeat: those of authentication (28), names (3D, 3F), and rights and tables
	// (42), and those of PgBouncer, which has one code for everything.
	permanentPattern = regexp.MustCompile(`^(28|3D|3F|42|08P01 (no such database|no such user|unsupported startup parameter))`)
)

// openError makes errors permanent that only a person can mend.
func openError(err error) error {
	reply, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case !ok || db.IsPermanent(err):
		return err
	case permanentPattern.MatchString(reply.Code + " " + reply.Message):
		return &db.PermanentError{Err: err}
	case reply.Code == "08P01" && strings.Contains(reply.Message, "statement pooling"):
		return &db.PermanentError{Err: fmt.Errorf("PgBouncer's pool_mode is statement, which keeps no transaction together: set it to transaction or session (%w)", err)}
	}
	return err
}

// connectError is an error of connecting without what pgx names of the URL.
type connectError struct {
	text string
	err  error
}

func (e *connectError) Error() string { return e.text }
func (e *connectError) Unwrap() error { return e.err }

// withoutUser keeps the user and all else of a URL but host and database out of an error.
func withoutUser(err error, name string) error {
	failed, ok := errors.AsType[*pgconn.ConnectError](err)
	if !ok {
		return err
	}
	reason := failed.Unwrap().Error()
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		if reason = reply.Message; strings.HasPrefix(reply.Code, "28") {
			reason = "the server refuses the user or the password, or has no rule for them in pg_hba.conf"
		}
		reason += " (SQLSTATE " + reply.Code + ")"
	}
	if user := failed.Config.User; user != "" {
		reason = strings.NewReplacer(`"`+user+`"`, "of the URL", "`"+user+"`", "of the URL", "'"+user+"'", "of the URL").Replace(reason)
	}
	return &connectError{"connecting to " + name + ": " + reason, err}
}
