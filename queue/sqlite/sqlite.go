// Package sqlite is the engine of the queue that keeps notifications in an SQLite file.
package sqlite
