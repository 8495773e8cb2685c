package envoy

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openSocketDir(t *testing.T, path string) *SocketDir {
	t.Helper()
	d, err := OpenSocketDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestSocketDirHasOneOwner(t *testing.T) {
	path := filepath.Join(shortDir(t), "made")
	first := openSocketDir(t, path)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("made with %v, %v", fi.Mode(), err)
	}
	_, err := OpenSocketDir(path)
	for _, want := range []string{path, fmt.Sprintf("another weir (process %d)", os.Getpid()), "another directory"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	openSocketDir(t, path)
}

func TestSocketDirListen(t *testing.T) {
	d := openSocketDir(t, shortDir(t))
	path := filepath.Join(d.Path(), "a.sock")
	l, err := d.Listen("a.sock")
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if _, err := d.Listen("a.sock"); err == nil || !strings.Contains(err.Error(), "another program listens on "+path) {
		t.Errorf("a socket with a listener: %v", err)
	}

	// As a killed process leaves it.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if l, err = d.Listen("a.sock"); err != nil {
		t.Fatalf("a socket of a dead process: %v", err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	if err := os.WriteFile(filepath.Join(d.Path(), "b.sock"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen("b.sock"); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file: %v", err)
	}
}

func TestSocketDirTooDeep(t *testing.T) {
	deep := filepath.Join(shortDir(t), strings.Repeat("d", 120))
	if _, err := OpenSocketDir(deep); err == nil || !strings.Contains(err.Error(), "unix sockets allow") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(deep); err == nil {
		t.Error("it was made all the same")
	}
}

func TestSocketDirOfALink(t *testing.T) {
	dir, elsewhere := shortDir(t), filepath.Join(shortDir(t), "file")
	if err := os.Symlink(elsewhere, filepath.Join(dir, socketLockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSocketDir(dir); err == nil {
		t.Error("a lock through a link")
	}
}
