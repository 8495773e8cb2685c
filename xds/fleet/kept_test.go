package fleet

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/source"
)

// fakeSource tells what it is given.
type fakeSource struct{ told chan *source.Objects }

func (s *fakeSource) Watch(ctx context.Context, fn func(*source.Objects, []source.Problem)) {
	for {
		select {
		case objs := <-s.told:
			fn(objs, nil)
		case <-ctx.Done():
			return
		}
	}
}
func (s *fakeSource) Health() source.Health { return source.Health{} }
func (s *fakeSource) String() string        { return "a cluster" }

// keptRun is a process with a Kept.
type keptRun struct {
	*Kept
	src  *fakeSource
	stop func()

	mu    sync.Mutex
	taken []*source.Objects
}

// got are the objects that were handed on.
func (k *keptRun) got() []*source.Objects {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taken
}

func (r *rig) kept(change func(*KeptOptions), file string) *keptRun {
	r.t.Helper()
	src := &fakeSource{make(chan *source.Objects)}
	opts := KeptOptions{Source: src, File: file, Key: []byte("a key of 32 bytes, or of some more"), Of: "https://cluster", Log: r.log}
	if change != nil {
		change(&opts)
	}
	k, err := NewKept(opts)
	if err != nil {
		r.t.Fatal(err)
	}
	run := &keptRun{Kept: k, src: src}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Watch(ctx, func(objs *source.Objects, _ []source.Problem) {
			run.mu.Lock()
			defer run.mu.Unlock()
			run.taken = append(run.taken, objs)
		})
	}()
	run.stop = func() {
		cancel()
		<-done
	}
	return run
}

// TestKept: what was served is there at the next start, if nothing can be read; and only for whom it was written.
func TestKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubernetes.cache")
	inBubble(t, func(t *testing.T, r *rig) {
		objs := world(t, []source.Object{backend("a", "x", 1), backend("a", "y", 3)}, map[string]string{"a s": "secret-1"})
		first := r.kept(nil, file)
		first.src.told <- objs
		settle()
		first.Serving(objs)
		settle()
		first.stop()
		content, err := os.ReadFile(file)
		if info, statErr := os.Stat(file); err != nil || statErr != nil || info.Mode().Perm() != 0o600 || bytes.Contains(content, []byte("secret-1")) {
			t.Fatalf("the file has %v (%v, %v)", info, err, statErr)
		}

		again := r.kept(nil, file)
		time.Sleep(keptAfter - time.Second)
		settle()
		if len(again.got()) != 0 {
			t.Error("the file is used at once")
		}
		time.Sleep(2 * time.Second)
		settle()
		if len(again.got()) != 1 || again.got()[0].Digest() != objs.Digest() || !again.Cached(again.got()[0]) || len(again.got()[0].Secrets) != len(objs.Secrets) {
			t.Fatalf("of the file came %v", again.got())
		}
		for key, value := range objs.Secrets {
			if !again.got()[0].Secrets[key].Equal(value) {
				t.Errorf("%s has another value", key)
			}
		}
		next := world(t, []source.Object{backend("a", "x", 2)}, nil)
		again.src.told <- next
		settle()
		if len(again.got()) != 2 || again.got()[1] != next || again.Cached(next) {
			t.Errorf("what was read then is not handed on: %v", again.got())
		}
		again.stop()

		for name, change := range map[string]func(*KeptOptions){
			"another key":     func(o *KeptOptions) { o.Key = []byte("another key of 32 bytes, or of some more") },
			"no key":          func(o *KeptOptions) { o.Key = nil },
			"another cluster": func(o *KeptOptions) { o.Of = "https://other" },
			"another scope":   func(o *KeptOptions) { o.Scope = Scope{Namespaces: []string{"a"}} },
			"no file":         func(o *KeptOptions) { o.File += ".none" },
		} {
			other := r.kept(change, file)
			time.Sleep(2 * keptAfter)
			settle()
			if len(other.got()) != 0 {
				t.Errorf("%s: %v is handed on", name, other.got())
			}
			other.stop()
		}
		if err := os.WriteFile(file, content[:len(content)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		damaged := r.kept(nil, file)
		time.Sleep(2 * keptAfter)
		settle()
		if len(damaged.got()) != 0 {
			t.Error("a damaged file is used")
		}
		damaged.stop()
	})
}

// Where a reading comes in time, the file does not matter; and it is written when others are served, every 30 s at most.
func TestKeptIsWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubernetes.cache")
	inBubble(t, func(t *testing.T, r *rig) {
		run := r.kept(nil, file)
		defer run.stop()
		at := func() time.Time {
			info, err := os.Stat(file)
			if err != nil {
				return time.Time{}
			}
			return info.ModTime()
		}
		run.src.told <- world(t, []source.Object{backend("a", "x", 1)}, nil)
		settle()
		if !at().IsZero() {
			t.Error("it is written before Envoy serves it")
		}
		run.Serving(run.got()[0])
		settle()
		written := at()
		if written.IsZero() {
			t.Fatal("it is not written")
		}
		content, _ := os.ReadFile(file)
		run.Serving(world(t, []source.Object{backend("a", "x", 2)}, nil))
		settle()
		if now, _ := os.ReadFile(file); !bytes.Equal(now, content) {
			t.Error("it is written again at once")
		}
		time.Sleep(cacheEvery)
		settle()
		if now, _ := os.ReadFile(file); bytes.Equal(now, content) {
			t.Error("it is not written again")
		}
	})
}
