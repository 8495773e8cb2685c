// Package assets finds the two servers that tests of Kubernetes need, kube-apiserver and etcd, and gets them where they are
// missing: as setup-envtest downloads them, or else built from their Go modules.
package assets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Variable names the environment variable that points at a folder with both servers. When it is set, no other place is
// looked at. controller-runtime's envtest reads the same one.
const Variable = "KUBEBUILDER_ASSETS"

// serversDir is the module that names the servers' versions, in the project.
const serversDir = "test/kubetest/servers"

// projectModule is the line of go.mod by which the project's root is known.
const projectModule = "module github.com/weir-dev/weir\n"

// ErrMissing is in the chain of the error that Find returns when the servers are not there.
var ErrMissing = errors.New("kube-apiserver and etcd for tests are not there: run `make need-kube`")

// Servers are the two programs.
type Servers struct {
	Etcd      string
	APIServer string
}

// programs are their names in a folder.
const (
	etcdName      = "etcd"
	apiserverName = "kube-apiserver"
)

func inFolder(dir string) Servers {
	return Servers{Etcd: filepath.Join(dir, etcdName), APIServer: filepath.Join(dir, apiserverName)}
}

// complete says which program is missing, if one is.
func (s Servers) complete() error {
	for _, path := range []string{s.Etcd, s.APIServer} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s is no program", path)
		}
	}
	return nil
}

// Find returns the servers in the folder $KUBEBUILDER_ASSETS, or without that variable those in the cache. It gets nothing. It
// is called in a folder of the project, as tests are.
func Find() (Servers, error) {
	if dir := os.Getenv(Variable); dir != "" {
		s := inFolder(dir)
		if err := s.complete(); err != nil {
			return Servers{}, fmt.Errorf("%s is %q, which has not both kube-apiserver and etcd (%w): point it at a folder that has, or unset it", Variable, dir, err)
		}
		return s, nil
	}
	p, err := locate()
	if err != nil {
		return Servers{}, err
	}
	return p.find()
}

// Ensure is Find, and gets the servers into the cache if they are not there. Several processes may call it at once: one gets
// them, the others wait. What it does goes to progress, a line for each step and a line now and then while it builds.
func Ensure(ctx context.Context, progress io.Writer) (Servers, error) {
	s, err := Find()
	if !errors.Is(err, ErrMissing) {
		return s, err
	}
	p, err := locate()
	if err != nil {
		return Servers{}, err
	}
	if err := os.MkdirAll(filepath.Dir(p.cached), 0o755); err != nil {
		return Servers{}, fmt.Errorf("the cache for Kubernetes' servers cannot be made: %w", err)
	}
	unlock, err := lock(ctx, p.cached+".lock", progress)
	if err != nil {
		return Servers{}, err
	}
	defer unlock()
	// Another process may have got them while this one waited.
	if s, err := p.find(); !errors.Is(err, ErrMissing) {
		return s, err
	}
	return p.get(ctx, progress)
}

// place is what a project's folder says of the servers.
type place struct {
	module  string // the folder with the servers' go.mod
	version string // of Kubernetes, such as v1.36.3
	cached  string // the folder in the cache
}

func (p place) find() (Servers, error) {
	s := inFolder(p.cached)
	if err := s.complete(); err != nil {
		return Servers{}, fmt.Errorf("%w (looked in %s)", ErrMissing, p.cached)
	}
	return s, nil
}

// get downloads or builds the servers beside their place in the cache, where they appear by rename: both, and whole.
func (p place) get(ctx context.Context, progress io.Writer) (Servers, error) {
	tmp := p.cached + ".part" // the lock's holder's alone; of one that was killed something may be left
	if err := errors.Join(removeAll(tmp), os.Mkdir(tmp, 0o755)); err != nil {
		return Servers{}, fmt.Errorf("the cache for Kubernetes' servers cannot be written: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := download(ctx, p, tmp, progress); err != nil {
		fmt.Fprintf(progress, "kube-apiserver and etcd cannot be downloaded (%v): building them\n", err)
		if err := build(ctx, p, tmp, progress); err != nil {
			return Servers{}, err
		}
	}
	if err := inFolder(tmp).complete(); err != nil {
		return Servers{}, fmt.Errorf("Kubernetes' servers were made and are not whole: %w", err)
	}
	// What is there now, if anything, has not both.
	if err := os.RemoveAll(p.cached); err != nil {
		return Servers{}, err
	}
	if err := os.Rename(tmp, p.cached); err != nil {
		return Servers{}, fmt.Errorf("Kubernetes' servers cannot be moved into the cache: %w", err)
	}
	fmt.Fprintf(progress, "kube-apiserver and etcd are in %s\n", p.cached)
	return inFolder(p.cached), nil
}

// locate reads the servers' module, and names their place in the cache by what is in it.
func locate() (place, error) {
	root, err := projectRoot()
	if err != nil {
		return place{}, err
	}
	p := place{module: filepath.Join(root, filepath.FromSlash(serversDir))}
	mod, err := os.ReadFile(filepath.Join(p.module, "go.mod"))
	if err != nil {
		return place{}, err
	}
	sum, err := os.ReadFile(filepath.Join(p.module, "go.sum"))
	if err != nil {
		return place{}, err
	}
	p.version, err = kubernetesVersion(mod)
	if err != nil {
		return place{}, err
	}
	base := os.Getenv("XDG_CACHE_HOME")
	// The XDG specification says that a relative path is to be ignored.
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return place{}, fmt.Errorf("no place to keep Kubernetes' servers: neither XDG_CACHE_HOME nor HOME is set; set one, or set %s", Variable)
		}
		base = filepath.Join(home, ".cache")
	}
	hash := sha256.New()
	for _, part := range []string{runtime.GOOS, runtime.GOARCH, string(mod), string(sum), strings.Join(buildFlags(p.version), " ")} {
		fmt.Fprintf(hash, "%d %s\n", len(part), part)
	}
	p.cached = filepath.Join(base, "weir", "kube", p.version+"-"+hex.EncodeToString(hash.Sum(nil))[:12])
	return p, nil
}

var requiredVersion = regexp.MustCompile(`(?m)^(?:require)?\s*k8s\.io/kubernetes (v1\.\d+\.\d+)`)

func kubernetesVersion(mod []byte) (string, error) {
	m := requiredVersion.FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("%s/go.mod does not require %s", serversDir, kubernetesModule)
	}
	return string(m[1]), nil
}

// projectRoot is the nearest folder, from the working directory upwards, with the project's go.mod.
func projectRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(mod), projectModule) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is in no checkout of Weir: set %s to a folder with kube-apiserver and etcd, or work in one", wd, Variable)
		}
	}
}

// lockPoll is how often a process looks whether another one is done. flock has no wait that a context can end.
const lockPoll = 200 * time.Millisecond

// lock takes a lock that the system drops when the process dies, however it dies. The file stays: if it were removed, two
// processes might hold the locks of two files of one name.
func lock(ctx context.Context, path string, progress io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the lock of Kubernetes' servers cannot be opened: %w", err)
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("%s cannot be locked: %w", path, err)
		}
		if !waiting {
			fmt.Fprintln(progress, "another process is getting kube-apiserver and etcd; waiting for it")
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("gave up waiting for another process that gets kube-apiserver and etcd: %w", ctx.Err())
		case <-ticker.C:
		}
	}
}
