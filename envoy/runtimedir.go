package envoy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// The names of the sockets and files in a runtime directory.
const (
	AdminSocketName   = "admin.sock"
	XDSSocketName     = "xds.sock"
	ExtProcSocketName = "extproc.sock"
	RelaySocketName   = "relay.sock" // where Weir answers from what it keeps
	InnerSocketName   = "inner.sock" // where Envoy takes what Weir asks for
	configName        = "envoy.json"
	lockName          = "lock"
)

// dirPattern is the pattern of os.MkdirTemp and, the same, of filepath.Glob.
const dirPattern = "weir-*"

// RuntimeDirOptions say where a runtime directory is made.
type RuntimeDirOptions struct {
	// Base is the directory to make it in. Empty is $XDG_RUNTIME_DIR if that is a usable directory,
	// else the system's directory for temporary files.
	Base string
}

// RuntimeDir is a directory of one process's sockets and bootstrap, readable by its user only. The
// process holds a lock in it for as long as it lives, which tells a later one what may be removed.
type RuntimeDir struct {
	path string
	lock *os.File
}

// NewRuntimeDir makes a runtime directory with mode 0700, and removes those that dead processes of
// this user left in the same place. It fails with a clear sentence if the place is so deep that a
// socket in it would exceed the length that unix sockets allow.
func NewRuntimeDir(opts RuntimeDirOptions) (*RuntimeDir, error) {
	base, err := runtimeBase(opts.Base)
	if err != nil {
		return nil, err
	}
	// MkdirTemp's random part has up to 10 digits; check before there is anything to clean up.
	longest := filepath.Join(base, "weir-4294967295", ExtProcSocketName)
	if err := checkSocketPath(longest); err != nil {
		return nil, err
	}
	removeStale(base)
	path, err := os.MkdirTemp(base, dirPattern)
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory for sockets in %s: %w; set XDG_RUNTIME_DIR to a directory that you may write to", base, err)
	}
	lock, err := lockDir(path)
	if err != nil {
		os.RemoveAll(path)
		return nil, fmt.Errorf("cannot lock the runtime directory %s: %w", path, err)
	}
	return &RuntimeDir{path: path, lock: lock}, nil
}

// Path returns the directory.
func (d *RuntimeDir) Path() string { return d.path }

// Socket returns the path of a socket of that name in the directory, or an error if it is too long.
func (d *RuntimeDir) Socket(name string) (string, error) {
	p := filepath.Join(d.path, name)
	return p, checkSocketPath(p)
}

// Close removes the directory and what is in it.
func (d *RuntimeDir) Close() error {
	err := os.RemoveAll(d.path)
	return errors.Join(err, d.lock.Close())
}

func runtimeBase(base string) (string, error) {
	if base != "" {
		abs, err := filepath.Abs(base)
		if err != nil {
			return "", fmt.Errorf("the runtime directory %q has no absolute path: %w", base, err)
		}
		if err := os.MkdirAll(abs, 0o700); err != nil {
			return "", fmt.Errorf("cannot make the runtime directory: %w", err)
		}
		return abs, nil
	}
	// Sessions without systemd may carry a variable whose directory is gone or another user's.
	if x := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(x) && writable(x) {
		return x, nil
	}
	return filepath.Abs(os.TempDir())
}

func writable(dir string) bool {
	const wx = 0o3 // W_OK|X_OK of access(2)
	fi, err := os.Stat(dir)
	return err == nil && fi.IsDir() && syscall.Access(dir, wx) == nil
}

// lockDir takes the lock under another name first: whoever sees a file named lock sees it locked, or
// its owner dead.
func lockDir(dir string) (*os.File, error) {
	early := filepath.Join(dir, lockName+".new")
	f, err := os.OpenFile(early, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	if err := os.Rename(early, filepath.Join(dir, lockName)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeStale removes the runtime directories in base whose lock nobody holds. Failing to is no
// reason not to start: they are left for the next time.
func removeStale(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, dirPattern))
	for _, dir := range dirs {
		// Not through a link, and only our own: base may be a directory that everybody writes to.
		fi, err := os.Lstat(dir)
		if err != nil || !fi.IsDir() || !ownedByUs(fi) {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		lock.Close()
	}
}

func ownedByUs(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// maxSocketPath is the longest path of a unix socket in bytes: the size of sun_path less its
// terminating zero (unix(7): 108 on Linux; 104 on the BSDs and macOS).
func maxSocketPath() int {
	if runtime.GOOS == "linux" {
		return 107
	}
	return 103
}

func checkSocketPath(path string) error {
	if n, limit := len(path), maxSocketPath(); n > limit {
		return fmt.Errorf("the socket path %s has %d bytes and unix sockets allow %d: set XDG_RUNTIME_DIR (or the runtime directory's flag) to a shorter path",
			path, n, limit)
	}
	return nil
}
