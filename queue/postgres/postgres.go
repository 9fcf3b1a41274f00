// Package postgres is the engine of the queue that keeps notifications in PostgreSQL.
package postgres
