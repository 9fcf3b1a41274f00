//go:build !linux

package sqlite

import "os"

// dropPages is for Linux alone.
func dropPages(*os.File) error { return nil }
