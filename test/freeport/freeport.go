// Package freeport gives tests TCP ports that nobody takes before the test does. A port that ":0" found and that was let go
// is soon somebody else's: of the next who asks for ":0", or of any connection that is made. Those here are below the range
// that systems choose such ports from.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// The ports that are given, ends included. Linux chooses its own from 32768 on, others from 49152 on.
const first, last = 15000, 29999

// Take returns a port of 127.0.0.1 on which nobody listens. No other test of this user gets it before t has ended, in no process.
func Take(t testing.TB) int {
	t.Helper()
	port, release, err := Hold()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// Hold is Take for a port that no single test has: it is nobody else's until release.
func Hold() (port int, release func(), err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("weir-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, err
	}
	for range 1000 {
		port := first + rand.IntN(last-first+1)
		release, err := lock(filepath.Join(dir, strconv.Itoa(port)))
		if err != nil {
			return 0, nil, err
		}
		if release == nil {
			continue // another test has it
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			release()
			continue
		}
		_ = l.Close()
		return port, release, nil
	}
	return 0, nil, fmt.Errorf("no free port was found between %d and %d", first, last)
}

// Addr is 127.0.0.1 with such a port.
func Addr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Take(t)))
}

// lock takes the lock of a file, which the system gives back when the process dies; release is nil if another has it. The
// file stays: if it were removed, two might hold the lock of files of one name.
func lock(path string) (release func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
