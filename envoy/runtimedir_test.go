package envoy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuntimeDir(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := NewRuntimeDir(RuntimeDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(d.Path()); err != nil || fi.Mode().Perm() != 0o700 || filepath.Dir(d.Path()) != base {
		t.Errorf("%s: %v, %v", d.Path(), fi, err)
	}
	if s, err := d.Socket("a.sock"); err != nil || s != filepath.Join(d.Path(), "a.sock") {
		t.Errorf("Socket = %s, %v", s, err)
	}
	if _, err := d.Socket(strings.Repeat("n", 108)); err == nil || !strings.Contains(err.Error(), "unix sockets allow 107") {
		t.Errorf("a long name: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := os.Stat(d.Path()); !os.IsNotExist(err) {
		t.Errorf("Close left the directory: %v", err)
	}
}

func TestRuntimeDirPlaces(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	for name, x := range map[string]string{"unset": "", "relative": "run", "gone": filepath.Join(tmp, "gone")} {
		t.Setenv("XDG_RUNTIME_DIR", x)
		d, err := NewRuntimeDir(RuntimeDirOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer d.Close()
		if filepath.Dir(d.Path()) != tmp {
			t.Errorf("%s: %s is not in the directory for temporary files", name, d.Path())
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	base := filepath.Join(t.TempDir(), "made")
	d, err := NewRuntimeDir(RuntimeDirOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if filepath.Dir(d.Path()) != base {
		t.Errorf("%s is not in the base asked for", d.Path())
	}
	deep := filepath.Join(t.TempDir(), strings.Repeat("d", 90))
	if _, err := NewRuntimeDir(RuntimeDirOptions{Base: deep}); err == nil || !strings.Contains(err.Error(), "to a shorter path") {
		t.Errorf("a deep base: %v", err)
	}
	if left, _ := os.ReadDir(deep); len(left) > 0 {
		t.Errorf("left in the deep base: %v", left)
	}
}

func TestStaleRuntimeDirsAreRemoved(t *testing.T) {
	base := t.TempDir()
	living, err := NewRuntimeDir(RuntimeDirOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	dead, err := NewRuntimeDir(RuntimeDirOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	// What the kernel does when a process dies.
	dead.lock.Close()
	// A process that has made its directory and not yet its lock, a link, and somebody else's things.
	early, other := filepath.Join(base, "weir-1"), filepath.Join(base, "other-1")
	for _, dir := range []string{early, other} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(other, lockName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(base, "weir-2")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	next, err := NewRuntimeDir(RuntimeDirOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, err := os.Stat(dead.Path()); !os.IsNotExist(err) {
		t.Errorf("the directory of a dead process is still there: %v", err)
	}
	for _, dir := range []string{living.Path(), next.Path(), early, filepath.Join(other, lockName), link} {
		if _, err := os.Lstat(dir); err != nil {
			t.Errorf("removed too much: %v", err)
		}
	}
}
