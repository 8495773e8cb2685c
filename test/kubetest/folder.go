package kubetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// folderPrefix begins the names of clusters' folders in the folder for temporary files.
const folderPrefix = "weir-kubetest-"

// lockName is the file in it whose lock is held as long as the cluster lives.
const lockName = "lock"

// folder is a cluster's folder. Its lock, which the system drops with the process, tells others that it has an owner.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes one, and removes those that killed test binaries have left.
func newFolder() (*folder, error) {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	for _, path := range left {
		if lock, err := takeLock(path, os.O_RDONLY); err == nil {
			(&folder{path, lock}).remove()
		}
	}
	// Under another name until its lock is held, or another process would take it for one that has been left.
	path, err := os.MkdirTemp("", "new-"+folderPrefix+"*")
	if err != nil {
		return nil, err
	}
	lock, err := takeLock(path, os.O_CREATE|os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	final := filepath.Join(filepath.Dir(path), strings.TrimPrefix(filepath.Base(path), "new-"))
	if err := os.Rename(path, final); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &folder{final, lock}, nil
}

func takeLock(dir string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *folder) remove() {
	_ = os.RemoveAll(f.path)
	_ = f.lock.Close()
}

// keep moves the files that a pattern matches to a folder that stays, and names it.
func (f *folder) keep(pattern string) string {
	files, _ := filepath.Glob(filepath.Join(f.path, pattern))
	dir, err := os.MkdirTemp("", "weir-failed-kubetest-*")
	if err != nil {
		return "nowhere: " + err.Error()
	}
	for _, file := range files {
		if err := os.Rename(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			return "nowhere: " + err.Error()
		}
	}
	return dir
}
