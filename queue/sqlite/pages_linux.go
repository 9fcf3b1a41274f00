package sqlite

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropPages makes the system forget what it keeps of a file in memory, but for what it still
// has to write.
func dropPages(file *os.File) error {
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED) //nolint:gosec // a descriptor
}
