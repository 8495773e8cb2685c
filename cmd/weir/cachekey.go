package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// minCacheKey is how many bytes the key must have that seals what is kept of a cluster.
	minCacheKey = 32
	// cacheKeyName is the name of the key that Weir makes where it is given none.
	cacheKeyName = "cache.key"
)

// cacheKey is the key that seals what is kept of a cluster: that of --cache-key-file, else one that is made in the socket directory, apart from what
// it seals. That directory is in memory, in a Pod, so that the key outlives the process and not the Pod.
func (o *sourceOptions) cacheKey(socketDir string) ([]byte, error) {
	path := o.cacheKeyFile
	if path == "" {
		path = filepath.Join(socketDir, cacheKeyName)
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("the key that seals what is kept for a start without the API server cannot be made: %w: give one by --cache-key-file, or keep nothing (--no-cache)", err)
		}
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--cache-key-file cannot be read: %w", err)
	}
	if len(key) < minCacheKey {
		return nil, fmt.Errorf("--cache-key-file %s has %d bytes: give it %d or more, such as those of: head -c 32 /dev/urandom", path, len(key), minCacheKey)
	}
	return key, nil
}

// makeKey makes a file with a new key, unless there is one. Who reads it never finds the half of one, and of two who make it at once both find the
// same.
func makeKey(path string) error {
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	key := make([]byte, minCacheKey)
	rand.Read(key) // never fails: crypto/rand ends the process instead
	_, err = f.Write(key)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
