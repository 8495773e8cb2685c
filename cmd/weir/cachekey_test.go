package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// What is kept of a cluster is never in the clear: without a key that is given, one is made, apart from what it seals.
func TestCacheKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weir", "sockets")
	var o sourceOptions
	keys := make([][]byte, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			key, err := o.cacheKey(dir)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	all.Wait()
	for _, key := range keys {
		if len(key) != minCacheKey || !bytes.Equal(key, keys[0]) || bytes.Equal(key, make([]byte, minCacheKey)) {
			t.Fatalf("keys %x", keys)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != cacheKeyName {
		t.Fatalf("%v, %v", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}

	given := filepath.Join(t.TempDir(), "key")
	for _, tc := range []struct{ content, err string }{
		{strings.Repeat("k", minCacheKey), ""}, {strings.Repeat("k", minCacheKey-1), "has 31 bytes: give it 32 or more"},
	} {
		if err := os.WriteFile(given, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		o.cacheKeyFile = given
		key, err := o.cacheKey(dir)
		if tc.err == "" && (err != nil || string(key) != tc.content) || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%d bytes: %q, %v", len(tc.content), key, err)
		}
	}
	o.cacheKeyFile = given + "-not"
	if _, err := o.cacheKey(dir); err == nil || !strings.Contains(err.Error(), "--cache-key-file cannot be read") {
		t.Error(err)
	}
}
