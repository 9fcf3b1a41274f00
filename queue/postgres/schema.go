package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// defaultSchema is the schema of a queue that names none.
const defaultSchema = "intercom_webhook"

var (
	schemaPattern = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,45}$`)

	errSchema = errors.New("schema: use letters, digits and underscores, 46 at most, and no digit first")
)

// schemaVersion is the version of tables, and program the mark that they are ours.
const (
	schemaVersion = 1
	program       = "caddy-intercom-webhook"
)

// tables makes the tables.
//
// Each change of a delivery's state makes a new entry in every index that has the delivery,
// so that all but the key are partial: a delivered one is in no other. It has copies of what
// lists, groups and fair queueing want to know of the notification, so that these need not
// read that. There are no foreign keys: what belongs together is written and deleted in one
// transaction, and a check of each would cost more than it finds.
const tables = `
CREATE SEQUENCE {s}notification_id_seq;

CREATE TABLE {s}notification (
	id              bigint PRIMARY KEY DEFAULT nextval('{s}notification_id_seq'),
	received_at     timestamptz NOT NULL,
	endpoint        text NOT NULL,
	workspace       text NOT NULL,
	topic           text NOT NULL,
	notification_id text,
	object          text,
	request         text NOT NULL,
	body            bytea NOT NULL
);
ALTER SEQUENCE {s}notification_id_seq OWNED BY {s}notification.id;
CREATE UNIQUE INDEX notification_once ON {s}notification ({key endpoint notification_id}, {indexed workspace}) WHERE notification_id IS NOT NULL;
CREATE INDEX notification_object ON {s}notification ({object id}) WHERE object IS NOT NULL;
CREATE INDEX notification_without_id ON {s}notification (received_at) WHERE notification_id IS NULL;

CREATE TABLE {s}delivery (
	id           bigint PRIMARY KEY CHECK (id / 100 = notification),
	notification bigint NOT NULL,
	stored_at    timestamptz NOT NULL DEFAULT now(),
	fixed        boolean NOT NULL DEFAULT false,
	endpoint     text NOT NULL,
	lane         text NOT NULL,
	workspace    text NOT NULL COLLATE "C", -- its md5 if it is longer than 200 bytes
	topic        text NOT NULL,
	order_key    text, -- the order of its object: it comes by the time, and then by its id
	created_at   timestamptz,
	-- the write-ahead log has of an update only what follows the columns that stay as they are
	age_from     timestamptz, -- NULL: stored_at
	due_at       timestamptz,
	finished_at  timestamptz,
	claim        bigint,
	attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
	status       integer,
	seconds      real,
	state        text NOT NULL CHECK (state IN ('waiting', 'delivering', 'retrying', 'delivered', 'dead')),
	reason       text CHECK (reason IN ('attempts', 'age', 'refused', 'unrouted', 'cancelled')),
	instance     text,
	upstream     text,
	error        text,
	held         boolean NOT NULL DEFAULT false, -- it is not claimed, as it has not its turn
	place_at     timestamptz, -- when it is looked at which delivery of the object has its turn
	CONSTRAINT delivery_order_has_time CHECK ((order_key IS NULL) = (created_at IS NULL)),
	CONSTRAINT delivery_retrying_has_time CHECK (state <> 'retrying' OR due_at IS NOT NULL),
	CONSTRAINT delivery_dead_has_reason CHECK ((state = 'dead') = (reason IS NOT NULL)),
	CONSTRAINT delivery_delivering_has_claim CHECK ((state = 'delivering') = (claim IS NOT NULL) AND (claim IS NULL) = (instance IS NULL)),
	CONSTRAINT delivery_finished_has_time CHECK ((state IN ('delivered', 'dead')) = (finished_at IS NOT NULL))
);
CREATE INDEX delivery_waiting ON {s}delivery (endpoint, lane, held, workspace, id) WHERE state = 'waiting';
CREATE INDEX delivery_retrying ON {s}delivery (endpoint, lane, held, due_at, id) WHERE state = 'retrying';
CREATE INDEX delivery_delivering ON {s}delivery (id) WHERE state = 'delivering';
CREATE INDEX delivery_dead ON {s}delivery (id) WHERE state = 'dead';
-- only those with an order are in these
CREATE INDEX delivery_order ON {s}delivery (endpoint, lane, order_key, state, held, created_at, id) WHERE order_key IS NOT NULL;
CREATE INDEX delivery_place ON {s}delivery (endpoint, lane, place_at) WHERE place_at IS NOT NULL;
CREATE INDEX delivery_held ON {s}delivery (endpoint, lane, order_key, stored_at, id) WHERE held AND place_at IS NULL;

CREATE TABLE {s}attempt (
	delivery bigint NOT NULL,
	at       timestamptz NOT NULL,
	instance text NOT NULL,
	upstream text,
	status   integer,
	seconds  real NOT NULL,
	error    text NOT NULL,
	answer   bytea,
	PRIMARY KEY (delivery, at)
);

-- which notifications have twins, by a hash
CREATE TABLE {s}once (
	key   text PRIMARY KEY,
	until timestamptz NOT NULL
);
CREATE INDEX once_until ON {s}once (until);

CREATE TABLE {s}lane (
	endpoint  text NOT NULL,
	name      text NOT NULL,
	paused_at timestamptz NOT NULL,
	PRIMARY KEY (endpoint, name)
);

-- A crash of the server must not empty this table, as it does unlogged ones: all instances
-- would look gone.
CREATE TABLE {s}instance (
	id           text PRIMARY KEY,
	version      text NOT NULL DEFAULT '',
	beat_at      timestamptz NOT NULL DEFAULT now(),
	steady_since timestamptz NOT NULL DEFAULT now(),
	lanes        json,
	configs      json
);

-- All rows of delivery change soon after they were made, and all rows are deleted in the
-- order in which they came.
ALTER TABLE {s}delivery SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
	autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE {s}notification SET (toast_tuple_target = 128, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
	autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 1);

-- Body and request are compressed, and stay in the row if it fits a page.
ALTER TABLE {s}notification ALTER endpoint SET STORAGE MAIN, ALTER workspace SET STORAGE MAIN, ALTER topic SET STORAGE MAIN,
	ALTER notification_id SET STORAGE MAIN, ALTER request SET STORAGE MAIN, ALTER body SET STORAGE MAIN;

CREATE TABLE {s}schema_version (
	program text NOT NULL PRIMARY KEY,
	version integer NOT NULL
);
INSERT INTO {s}schema_version VALUES ('` + program + `', 1)`

const (
	// migrationLock keeps instances that start together from migrating together. YugabyteDB
	// before 2025.1 has no such locks, and is the less safe for it.
	migrationLock = `DO $$ BEGIN PERFORM pg_advisory_xact_lock(1232565105); EXCEPTION WHEN feature_not_supported THEN NULL; END $$`

	// compression makes notifications cheaper to store, unless the server is older than 14 or
	// was built without it.
	compression = `DO $$ BEGIN EXECUTE 'ALTER TABLE {s}notification ALTER body SET COMPRESSION lz4, ALTER request SET COMPRESSION lz4';
		EXCEPTION WHEN feature_not_supported OR syntax_error THEN NULL; END $$`

	// serverState are settings of the server and the role, and what the schema holds.
	serverState = `SELECT current_setting('server_encoding'), current_setting('fsync'), current_setting('transaction_isolation'),
		coalesce((SELECT source IN ('user', 'database', 'database user') AND setting = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'), false),
		coalesce((SELECT least(nullif(rolconnlimit, -1), (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))
			FROM pg_roles WHERE rolname = current_user AND NOT rolsuper), 1000000),
		EXISTS (SELECT FROM pg_namespace WHERE nspname = $1::text),
		ARRAY(SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
			WHERE n.nspname = $1::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1),
		coalesce((SELECT string_agg(attname, ' ' ORDER BY attnum) = 'program version' FROM pg_attribute
			WHERE attrelid = to_regclass(quote_ident($1::text) || '.schema_version') AND attnum > 0 AND NOT attisdropped), false)`

	// beginUntimed begins a transaction without the time limits that a role may have.
	beginUntimed = `BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`
)

// prepare checks the server, and makes the tables if need be. It changes nothing, and asks for
// no right to, if they are there. It runs in a transaction, which a pooler that cannot keep one
// together refuses.
func prepare(ctx context.Context, conn *pgx.Conn, c *client, schema string) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: beginUntimed}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, migrationLock); err != nil {
			return fmt.Errorf("locking for the migration: %w", err)
		}
		var encoding, fsync, isolation string
		var readOnly, exists, marked bool
		var limit, version int
		var holds []string
		if err := tx.QueryRow(ctx, serverState, schema).Scan(&encoding, &fsync, &isolation, &readOnly, &limit, &exists, &holds, &marked); err != nil {
			return err
		}
		if marked {
			err := tx.QueryRow(ctx, c.sql(`SELECT coalesce((SELECT version FROM {s}schema_version WHERE program = $1::text), 0)`), program).Scan(&version)
			if err != nil {
				return fmt.Errorf("reading the version of the tables: %w", err)
			}
		}
		var refused error
		switch {
		case encoding != "UTF8":
			refused = fmt.Errorf("the database's encoding is %s: create one with UTF8", encoding)
		case isolation != "read committed":
			refused = fmt.Errorf("default_transaction_isolation is %s for the role or the database: set it to read committed", isolation)
		case readOnly:
			refused = errors.New("default_transaction_read_only is on for the role or the database: reset it, or use another role")
		case limit < minConnections:
			refused = fmt.Errorf("the role or the database may have %d connections: the queue needs %d, and uses up to %d", limit, minConnections, defaultConnections)
		case version > schemaVersion:
			refused = fmt.Errorf("the tables of version %d were made by a newer version of this program: update it, or give it another schema", version)
		case len(holds) > 0 && version == 0:
			refused = fmt.Errorf("the schema %s holds what this program has not made (such as %s): name another one with the option schema", schema, holds[0])
		}
		if refused != nil {
			return &db.PermanentError{Err: refused}
		}
		if fsync == "off" {
			c.logger.Warn("PostgreSQL runs with fsync off: what it has stored is lost with a power cut")
		}
		if version == schemaVersion {
			return nil
		}
		sql := c.sql(tables + ";\n" + compression)
		if !exists { // else it needs no right to create one
			sql = "CREATE SCHEMA IF NOT EXISTS " + c.schema + ";" + sql
		}
		if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("creating the tables in schema %s: %w", schema, err)
		}
		return nil
	})
}
