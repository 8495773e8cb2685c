package envoy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketLockName is not lockName: a directory that somebody chose is not one to be removed when its lock is free.
const socketLockName = "weir.lock"

// SocketDir is a directory that this process shares with an Envoy which somebody else runs: Weir's socket is in it, and the
// one of Envoy's admin interface. The process holds a lock in it for as long as it lives.
type SocketDir struct {
	path string
	lock *os.File
}

// OpenSocketDir takes a directory, which it makes with mode 0700 if there is none. It fails if another living process has
// taken it. What a dead one has left in it is no hindrance.
func OpenSocketDir(path string) (*SocketDir, error) {
	path, err := SocketPath(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the socket directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, socketLockName), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the socket directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(lock, 20)) // it may be writing it at this moment
		lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot lock the socket directory %s: %w", path, err)
		}
		return nil, fmt.Errorf("another weir%s serves in the socket directory %s: stop it, or give this one another directory, and an Envoy of its own",
			named(string(holder)), path)
	}
	d := &SocketDir{path: path, lock: lock}
	if err := d.sign(); err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot lock the socket directory %s: %w", path, err)
	}
	return d, nil
}

// named is " (process 7)" for the content of a lock file.
func named(holder string) string {
	if pid := strings.TrimSpace(holder); pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

// sign writes down who holds the lock, for the message of the next who wants it.
func (d *SocketDir) sign() error {
	if err := d.lock.Truncate(0); err != nil {
		return err
	}
	_, err := d.lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// SocketPath is the absolute path of a socket directory; it fails where the sockets in it would have too long a path.
func SocketPath(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("the socket directory %q has no absolute path: %w", dir, err)
	}
	longest := filepath.Join(path, ExtProcSocketName)
	if n, limit := len(longest), maxSocketPath(); n > limit {
		return "", fmt.Errorf("the socket path %s has %d bytes and unix sockets allow %d: give a socket directory with a shorter path", longest, n, limit)
	}
	return path, nil
}

// Path returns the directory.
func (d *SocketDir) Path() string { return d.path }

// dialTimeout is how long a socket has to show that somebody listens on it. The kernel answers at once, unless there is a
// listener that is so busy that its queue is full.
const dialTimeout = time.Second

// Listen listens on a socket of that name, for processes of the same user. It replaces the socket of a dead process, and
// fails where somebody listens or the file is no socket.
func (d *SocketDir) Listen(name string) (net.Listener, error) {
	path := filepath.Join(d.path, name)
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot look at the socket %s: %w", path, err)
	case fi.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("%s is in the way: it is no socket; remove it, or give another socket directory", path)
	default:
		conn, err := net.DialTimeout("unix", path, dialTimeout)
		if err == nil {
			conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("another program listens on %s: stop it, or give another socket directory", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove the socket that a dead process has left: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot keep other users from %s: %w", path, err)
	}
	return l, nil
}

// Close gives the directory to the next who wants it.
func (d *SocketDir) Close() error { return d.lock.Close() }
