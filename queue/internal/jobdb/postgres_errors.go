package jobdb

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresCode returns the SQLSTATE of an error that the server sent, or "".
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
func postgresCode(err error) string {
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok {
		return reply.Code
	}
	return ""
}

// postgresAborted reports whether the server ended a transaction for the sake of another
// one: nothing is wrong with it, and it can be tried again.
func postgresAborted(err error) bool {
	code := postgresCode(err)
	return code == "40001" || code == "40P01" // serialization_failure, deadlock_detected
}

// postgresRefused reports whether the server refused what a statement wanted to write,
// as opposed to being unable to run it.
func postgresRefused(err error) bool {
	code := postgresCode(err)
	for _, class := range []string{"21", "22", "23", "54"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// postgresMoved reports whether the server has ended its role: it is read-only, or shuts
// down, or the connection to it is gone.
func postgresMoved(err error) bool {
	switch code := postgresCode(err); code {
	case "25006", "57P01", "57P02", "57P03": // read_only_sql_transaction, admin_shutdown, crash_shutdown, cannot_connect_now
		return true
	default:
		return strings.HasPrefix(code, "08") // connection exceptions
	}
}

// postgresOpenError makes errors permanent that opening the database again would only
// repeat: those of authentication (28), names (3D, 3F), and rights and tables that are
// not ours (42).
func postgresOpenError(err error) error {
	if IsPermanent(err) {
		return err
	}
	code := postgresCode(err)
	for _, class := range []string{"28", "3D", "3F", "42"} {
		if strings.HasPrefix(code, class) {
			return &PermanentError{err}
		}
	}
	if reply, ok := errors.AsType[*pgconn.PgError](err); ok && code == "08P01" {
		// PgBouncer has one code for everything
		for _, start := range []string{"no such database", "no such user", "unsupported startup parameter"} {
			if strings.HasPrefix(reply.Message, start) {
				return &PermanentError{err}
			}
		}
	}
	return err
}
