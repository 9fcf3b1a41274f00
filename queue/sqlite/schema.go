package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

const (
	// applicationID marks the files of this program: "Icwh".
	applicationID = 0x49637768

	schemaVersion = 1
)

// schema are the statements that make the tables. All times are microseconds since 1970, in
// UTC. Texts that are no UTF-8, or have a NUL, are base64: and their base64.
var schema = []string{
	`CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT`,

	`CREATE TABLE notification (
		id              INTEGER PRIMARY KEY AUTOINCREMENT,
		endpoint        TEXT NOT NULL,
		workspace       TEXT NOT NULL,
		topic           TEXT NOT NULL,
		notification_id TEXT,
		object          TEXT,
		received_at     INTEGER NOT NULL,
		request         TEXT NOT NULL
	) STRICT`,
	`CREATE UNIQUE INDEX notification_once ON notification (notification_id, workspace, endpoint) WHERE notification_id IS NOT NULL`,
	`CREATE INDEX notification_object ON notification (substr(object, instr(object, ':') + 1)) WHERE object IS NOT NULL`,
	// finds those without an id when they are imported once more
	`CREATE INDEX notification_without_id ON notification (received_at) WHERE notification_id IS NULL`,

	`CREATE TABLE body (
		notification INTEGER PRIMARY KEY,
		bytes        BLOB NOT NULL
	) STRICT`,

	// The id is 100 times that of the notification, and a number below 100. Endpoint,
	// workspace and topic are those of the notification.
	`CREATE TABLE delivery (
		id           INTEGER PRIMARY KEY,
		notification INTEGER NOT NULL,
		endpoint     TEXT NOT NULL,
		lane         TEXT NOT NULL,
		workspace    TEXT NOT NULL,
		topic        TEXT NOT NULL,
		fixed        INTEGER NOT NULL,
		state        TEXT NOT NULL CHECK (state IN ('waiting', 'delivering', 'retrying', 'delivered', 'dead')),
		reason       TEXT CHECK (reason IN ('attempts', 'age', 'refused', 'unrouted', 'cancelled')),
		attempts     INTEGER NOT NULL,
		stored_at    INTEGER NOT NULL,
		age_from     INTEGER NOT NULL,
		due_at       INTEGER NOT NULL,
		claim        INTEGER,
		instance     TEXT,
		finished_at  INTEGER,
		upstream     TEXT,
		status       INTEGER,
		seconds      REAL,
		error        TEXT,
		-- The order of its object. One that is held is not claimed. At place_at it is looked at
		-- which delivery of the object has its turn.
		order_key    TEXT,
		created_at   INTEGER,
		held         INTEGER NOT NULL DEFAULT FALSE,
		place_at     INTEGER,
		CHECK ((order_key IS NULL) = (created_at IS NULL)),
		CHECK ((state = 'dead') = (reason IS NOT NULL)),
		CHECK ((state = 'delivering') = (claim IS NOT NULL) AND (state = 'delivering') = (instance IS NOT NULL)),
		CHECK ((state IN ('delivered', 'dead')) = (finished_at IS NOT NULL))
	) STRICT`,
	// Each has what its statements need, so that they read no row. A delivered one is in none.
	`CREATE INDEX delivery_waiting ON delivery (endpoint, lane, held, workspace, id, stored_at) WHERE state = 'waiting'`,
	`CREATE INDEX delivery_retrying ON delivery (endpoint, lane, held, due_at, id, stored_at) WHERE state = 'retrying'`,
	`CREATE INDEX delivery_delivering ON delivery (instance, id) WHERE state = 'delivering'`,
	`CREATE INDEX delivery_dead ON delivery (endpoint, lane, topic, reason, finished_at, id, stored_at) WHERE state = 'dead'`,
	// Only those with an order are in these.
	`CREATE INDEX delivery_order ON delivery (endpoint, lane, order_key, state, held, created_at, id) WHERE order_key IS NOT NULL`,
	`CREATE INDEX delivery_place ON delivery (endpoint, lane, place_at) WHERE place_at IS NOT NULL`,
	`CREATE INDEX delivery_held ON delivery (endpoint, lane, order_key, stored_at, id) WHERE held AND place_at IS NULL`,

	`CREATE TABLE attempt (
		delivery INTEGER NOT NULL,
		at       INTEGER NOT NULL,
		instance TEXT NOT NULL,
		upstream TEXT,
		status   INTEGER,
		seconds  REAL NOT NULL,
		error    TEXT,
		answer   BLOB,
		PRIMARY KEY (delivery, at)
	) STRICT, WITHOUT ROWID`,

	// Which notifications have twins, by a hash.
	`CREATE TABLE once (
		key   TEXT PRIMARY KEY,
		until INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,
	`CREATE INDEX once_until ON once (until)`,

	`CREATE TABLE lane (
		endpoint  TEXT NOT NULL,
		name      TEXT NOT NULL,
		paused_at INTEGER,
		PRIMARY KEY (endpoint, name)
	) STRICT, WITHOUT ROWID`,

	`CREATE TABLE instance (
		name         TEXT PRIMARY KEY,
		version      TEXT NOT NULL,
		lanes        TEXT NOT NULL,
		configs      TEXT NOT NULL,
		heartbeat_at INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`,
}

var (
	errForeign = errors.New("it is the database of another program: give the queue a file of its own with path")
	errNewer   = errors.New("it was made by a newer version of this program: update it, or give the queue another file with path")
)

// identify refuses what is no database of this program, without changing it, and reports
// whether it is none at all yet.
func identify(ctx context.Context, file *sql.DB) (isNew bool, err error) {
	var id, tables, versions int
	if err := file.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return false, err
	}
	err = file.QueryRowContext(ctx, "SELECT count(*), count(CASE name WHEN 'schema_version' THEN 1 END) FROM sqlite_master").Scan(&tables, &versions)
	switch {
	case err != nil:
		return false, err
	case tables == 0 && id == 0:
		return true, nil
	case id != applicationID || versions == 0:
		return false, &db.PermanentError{Err: errForeign}
	}
	var version int
	if err := file.QueryRowContext(ctx, "SELECT version FROM schema_version").Scan(&version); err != nil {
		return false, fmt.Errorf("reading the version of the tables: %w", err)
	}
	if version > schemaVersion {
		return false, &db.PermanentError{Err: fmt.Errorf("%w (tables of version %d, known is %d)", errNewer, version, schemaVersion)}
	}
	return false, nil
}

// create makes all tables. It must run in a transaction.
func create(write *statements) error {
	for _, statement := range schema {
		if _, err := write.exec(context.Background(), statement); err != nil {
			return fmt.Errorf("creating the tables: %w", err)
		}
	}
	if _, err := write.exec(context.Background(), "INSERT INTO schema_version (version) VALUES (?)", schemaVersion); err != nil {
		return err
	}
	_, err := write.exec(context.Background(), fmt.Sprintf("PRAGMA application_id = %d", applicationID))
	return err
}
