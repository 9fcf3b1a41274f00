package sqlite

import (
	"os"

	"golang.org/x/sys/unix"
)

// reread makes the system read a file from the disk again.
//
// It keeps pages that it could not write. At the next try, ext4 writes them to the blocks that
// it has reserved for them, but goes on to take these for empty: after a power cut they read as
// zeros, although the sync has succeeded. So the pages are dropped; the log has them.
func reread(file *os.File) error {
	_ = file.Sync() // what is not written yet is not dropped
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}
