package kubetest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// The folder of a process that is gone is removed by the next; that of one that lives is not.
func TestFoldersThatAreLeft(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	left, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left.path, "etcd.log"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := left.lock.Close(); err != nil { // as its end does
		t.Fatal(err)
	}
	living, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder that was left: %v", err)
	}
	another, err := newFolder()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(living.path); err != nil {
		t.Errorf("the folder of one that lives: %v", err)
	}

	if err := os.WriteFile(filepath.Join(living.path, "etcd.log"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept := living.keep("*.log")
	living.remove()
	another.remove()
	if text, err := os.ReadFile(filepath.Join(kept, "etcd.log")); err != nil || string(text) != "text" {
		t.Errorf("the log that was kept: %q %v", text, err)
	}
	if rest, _ := filepath.Glob(filepath.Join(os.TempDir(), "*"+folderPrefix+"*")); len(rest) > 0 {
		t.Errorf("left: %v", rest)
	}
}
