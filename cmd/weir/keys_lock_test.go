package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/identity"
)

// TestKeysProcess is no test of its own: TestKeysInParallel starts it as `weir`, with the arguments after "--".
func TestKeysProcess(t *testing.T) {
	if os.Getenv("WEIR_TEST_KEYS_PROCESS") == "" {
		return
	}
	c := root()
	for i, a := range os.Args {
		if a == "--" {
			c.SetArgs(os.Args[i+1:])
		}
	}
	if err := c.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKeysInParallel: processes that change keys of one file, through the folder and through a part of it, undo nothing of one another.
func TestKeysInParallel(t *testing.T) {
	const n = 12
	dir := keysDir(t, "")
	var doc strings.Builder
	for i := range n {
		fmt.Fprintf(&doc, "---\napiVersion: weir.dev/v1alpha1\nkind: APIKey\nmetadata: {name: bot%d}\nspec: {consumer: app, hash: '%s'}\n", i, identity.HashKey(fmt.Sprint("a key ", i)))
	}
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := put(t, dir, "keys/all.yaml", doc.String())
	late := time.Now().Add(2 * time.Minute)
	var all sync.WaitGroup
	weir := func(args ...string) {
		all.Go(func() {
			for {
				c := exec.Command(os.Args[0], append([]string{"-test.run=^TestKeysProcess$", "--", "keys"}, args...)...)
				c.Env = append(os.Environ(), "WEIR_TEST_KEYS_PROCESS=1")
				out, err := c.CombinedOutput()
				if err == nil {
					return
				}
				// On a busy machine the turn of one may not come in time.
				if !strings.Contains(string(out), "and nothing was changed") || time.Now().After(late) {
					t.Errorf("%q: %v\n%s", args, err, out)
					return
				}
			}
		})
	}
	for i := range n {
		from := []string{dir, filepath.Join(dir, "keys"), file}[i%3]
		weir("revoke", fmt.Sprint("bot", i), "-f", from)
	}
	for range 4 {
		weir("create", fmt.Sprint("new", time.Now().UnixNano()), "-f", dir, "--consumer", "app")
	}
	all.Wait()
	if got := strings.Count(slurp(t, file), "disabled: true"); got != n {
		t.Errorf("%d of %d keys are disabled", got, n)
	}
	// Successors of one key: each run finds a name of its own.
	mustKeys(t, "create", "turn", "-f", dir, "--consumer", "app")
	for range 4 {
		weir("rotate", "turn", "-f", dir, "--expires", "never")
	}
	all.Wait()
	list := mustKeys(t, "list", "-f", dir)
	for _, name := range []string{"turn", "turn-2", "turn-3", "turn-4", "turn-5"} {
		if !strings.Contains(list, " "+name+" ") {
			t.Errorf("no %s in\n%s", name, list)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "keys", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLockFolder: one at a time, and who waits gives up with the context; no folder is no obstacle.
func TestLockFolder(t *testing.T) {
	dir := t.TempDir()
	var errs bytes.Buffer
	first, err := lockFolderOf(t.Context(), put(t, dir, "a.yaml", ""), &errs)
	if err != nil || !first.holds(dir) || first.holds(t.TempDir()) {
		t.Fatalf("%+v, %v", first, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lockFolder(gone, dir, &errs); err == nil || !strings.Contains(err.Error(), "another weir keys") {
		t.Errorf("a second lock: %v", err)
	}
	first.release()
	first.release()
	second, err := lockFolder(t.Context(), dir, &errs)
	if err != nil {
		t.Fatal(err)
	}
	second.release()
	if none, err := lockFolderOf(t.Context(), filepath.Join(dir, "none"), &errs); err != nil || none.holds(dir) {
		t.Errorf("%+v, %v", none, err)
	}
	if errs.Len() > 0 {
		t.Errorf("%s", &errs)
	}
}

// TestIsSet: what was undone is seen.
func TestIsSet(t *testing.T) {
	path := put(t, t.TempDir(), "a.yaml", "kind: APIKey\nmetadata: {name: a}\nspec: {consumer: x, disabled: true}\n")
	for _, c := range []struct {
		name, field string
		value       any
		want        bool
	}{{"a", "disabled", true, true}, {"a", "disabled", false, false}, {"a", "expiresAt", "x", false}, {"b", "disabled", true, false}, {"a", "consumer", "x", true}} {
		if got, err := isSet(path, "default", c.name, c.field, c.value); got != c.want || err != nil {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if _, err := isSet(path+"x", "default", "a", "disabled", true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
