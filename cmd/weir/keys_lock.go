package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// lockPatience is how long a command waits for others that change the same folder; each takes milliseconds.
	lockPatience = 10 * time.Second
	lockRetry    = 10 * time.Millisecond
)

// folderLock keeps other `weir keys` from changing a folder at the same time. It locks the folder itself, so that nothing is
// left behind in it, and ends with the process.
type folderLock struct {
	dir  *os.File // nil: nothing is locked
	info os.FileInfo
}

// lockFolder waits for the lock. A folder that is not there is not locked, and neither is one of a file system without locks,
// which is told: a key must be revocable there too.
func lockFolder(ctx context.Context, path string, stderr io.Writer) (*folderLock, error) {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &folderLock{}, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat()
	if err != nil {
		dir.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return &folderLock{dir, info}, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			dir.Close()
			fmt.Fprintf(stderr, "%s cannot be locked (%v): see to it that nothing else changes keys there at this moment\n", path, err)
			return &folderLock{}, nil
		}
		select {
		case <-ctx.Done():
			dir.Close()
			return nil, fmt.Errorf("another weir keys has been changing %s for %v, and nothing was changed: end it, and try again", path, lockPatience)
		case <-time.After(lockRetry):
		}
	}
}

// lockFolderOf locks the folder that path is, or that it is in.
func lockFolderOf(ctx context.Context, path string, stderr io.Writer) (*folderLock, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return &folderLock{}, nil // who reads it says what is wrong
	}
	if info, err := os.Stat(real); err == nil && !info.IsDir() {
		real = filepath.Dir(real)
	}
	return lockFolder(ctx, real, stderr)
}

// holds says whether it is this folder that is locked.
func (l *folderLock) holds(path string) bool {
	if l == nil || l.dir == nil {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && os.SameFile(info, l.info)
}

// release lets others go on.
func (l *folderLock) release() {
	if l != nil && l.dir != nil {
		l.dir.Close() // closing ends the lock
		l.dir = nil
	}
}

// editTries is how often an edit is made that something else, which does not know of the lock, has undone.
const editTries = 3

// edit sets one field of an APIKey's document, while no other `weir keys` edits there, and sees that it is set.
func (f *keyFolder) edit(ctx context.Context, path, namespace, name, field string, value any) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	// The lock of the folder does not keep those away who were given a part of it with -f.
	if dir := filepath.Dir(real); !f.lock.holds(dir) {
		lock, err := lockFolder(ctx, dir, f.err)
		if err != nil {
			return err
		}
		defer lock.release()
	}
	for range editTries {
		if err := editKey(path, namespace, name, field, value); err != nil {
			return err
		}
		if set, err := isSet(real, namespace, name, field, value); set || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: something else writes the file at the same time, and spec.%s of APIKey %s/%s is not set: end that, and try again", path, field, namespace, name)
}

// isSet reads a file and says whether an APIKey's field has a value.
func isSet(path, namespace, name, field string, value any) (bool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	docs, err := readDocuments(raw)
	if err != nil {
		return false, nil // half written by something else
	}
	spec, err := findSpec(docs, namespace, name)
	if err != nil {
		return false, nil
	}
	return text(valueOf(spec, field)) == fmt.Sprint(value), nil
}
