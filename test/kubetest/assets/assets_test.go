package assets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folderWith makes a folder with programs of these names.
func folderWith(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindByVariable(t *testing.T) {
	whole := folderWith(t, etcdName, apiserverName)
	t.Setenv(Variable, whole)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if s, err := Find(); err != nil || s.Etcd != filepath.Join(whole, "etcd") || s.APIServer != filepath.Join(whole, "kube-apiserver") {
		t.Errorf("found %+v, %v", s, err)
	}
	for name, dir := range map[string]string{"half": folderWith(t, etcdName), "absent": filepath.Join(whole, "absent")} {
		t.Setenv(Variable, dir)
		_, err := Ensure(t.Context(), t.Output())
		if err == nil || errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), Variable) {
			t.Errorf("%s: %v: a folder that somebody named must not be replaced by another", name, err)
		}
	}
	if err := os.Chmod(filepath.Join(whole, apiserverName), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Variable, whole)
	if _, err := Find(); err == nil {
		t.Error("a file that is no program is taken for one")
	}
}

func TestFindInCache(t *testing.T) {
	t.Setenv(Variable, "")
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	_, err := Find()
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make need-kube") || !strings.Contains(err.Error(), cache) {
		t.Fatalf("an empty cache: %v", err)
	}
	p, err := locate()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(p.cached), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(folderWith(t, etcdName, apiserverName), p.cached); err != nil {
		t.Fatal(err)
	}
	// Nothing is built or downloaded when all is there.
	s, err := Ensure(t.Context(), t.Output())
	if err != nil || filepath.Dir(s.Etcd) != p.cached {
		t.Errorf("found %+v, %v", s, err)
	}
	if !strings.HasPrefix(p.cached, filepath.Join(cache, "weir", "kube", p.version+"-")) {
		t.Errorf("the place is %s", p.cached)
	}
}

func TestOutsideOfTheProject(t *testing.T) {
	t.Setenv(Variable, "")
	t.Chdir(t.TempDir())
	if _, err := Find(); err == nil || !strings.Contains(err.Error(), "in no checkout of Weir") {
		t.Error(err)
	}
}

// One process gets the servers, the others wait for it.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var said bytes.Buffer
	if _, err := lock(ended, path, &said); !errors.Is(err, context.Canceled) || !strings.Contains(said.String(), "another process") {
		t.Errorf("%v; said %q", err, &said)
	}
	unlock()
	if unlock, err = lock(ended, path, t.Output()); err != nil {
		t.Fatal(err)
	}
	unlock()
}

const theirGoMod = `module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

require (
	github.com/blang/semver/v4 v4.0.0
	k8s.io/api v0.0.0
)

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/klog/v2 => k8s.io/klog/v2 v2.1.0
	k8s.io/kubectl => ./staging/src/k8s.io/kubectl
)
`

func TestGoMod(t *testing.T) {
	got, err := goMod([]byte(theirGoMod), "1.36.3")
	if err != nil {
		t.Fatal(err)
	}
	const want = `// The API server and etcd for tests. Written by ` + "`go run ./test/kubetest/need -modules 1.36.3`" + `: not edited by hand.
module github.com/weir-dev/weir/test/kubetest/servers

go 1.26.0

godebug default=go1.26

require k8s.io/kubernetes v1.36.3

replace (
	k8s.io/api => k8s.io/api v0.36.3
	k8s.io/kubectl => k8s.io/kubectl v0.36.3
)

tool (
	go.etcd.io/etcd/server/v3
	k8s.io/kubernetes/cmd/kube-apiserver
)
`
	if string(got) != want {
		t.Errorf("got:\n%s", got)
	}
	if _, err := goMod([]byte("module k8s.io/kubernetes\n"), "1.36.3"); err == nil {
		t.Error("a go.mod of another form is taken")
	}
	if v, err := kubernetesVersion(got); err != nil || v != "v1.36.3" {
		t.Errorf("its version is %q, %v", v, err)
	}
	if err := WriteModules(t.Context(), t.TempDir(), "1.36", t.Output()); err == nil {
		t.Error("1.36 is taken for a version")
	}
}

func TestWatchBuild(t *testing.T) {
	var progress bytes.Buffer
	said := watchBuild(strings.NewReader("internal/goarch\nk8s.io/api/core/v1\n# k8s.io/api/apps/v1\napps.go:3:1: syntax error\n"), 3, &progress)
	if want := "# k8s.io/api/apps/v1\napps.go:3:1: syntax error"; said != want {
		t.Errorf("it said %q, want %q", said, want)
	}
	if got := lastLines("a\nb\nc\n", 2); got != "b\nc" {
		t.Errorf("the last two lines are %q", got)
	}
}

// What cannot be reached is known in few words.
func TestReachable(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	if err := reachable(t.Context(), server.URL); err != nil {
		t.Error(err)
	}
	status = http.StatusForbidden // of a proxy that knows few places
	if err := reachable(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "403") {
		t.Error(err)
	}
	server.Close()
	if err := reachable(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for want, err := range map[string]error{
		"the name weir.invalid cannot be resolved": plain("weir.invalid", fmt.Errorf("dial: %w", &net.DNSError{Err: "no such host", IsNotFound: true})),
		"does not answer":                          reachable(late, server.URL),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
