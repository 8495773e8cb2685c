package freeport

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

func TestNobodyGetsAPortTwice(t *testing.T) {
	seen := map[int]bool{}
	for range 500 {
		port := Take(t)
		if port < first || port > last || seen[port] {
			t.Fatalf("port %d, after %d others", port, len(seen))
		}
		seen[port] = true
	}
}

// TestPortsThatAreTaken: with all others locked, the one that is left is given, unless somebody listens there.
func TestPortsThatAreTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1")
	release, err := lock(path)
	if err != nil || release == nil {
		t.Fatal(err)
	}
	if again, err := lock(path); again != nil || err != nil {
		t.Fatalf("a locked file was locked again: %v", err)
	}
	release()
	again, err := lock(path)
	if err != nil || again == nil {
		t.Fatalf("a file that was let go cannot be locked: %v", err)
	}
	again()
	if _, err := lock(filepath.Join(path, "nowhere")); err == nil {
		t.Error("a file that cannot be is locked")
	}
}

func TestPortIsFreeAgain(t *testing.T) {
	var addr string
	t.Run("takes", func(t *testing.T) {
		addr = Addr(t)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	})
	_, port, _ := net.SplitHostPort(addr)
	release, err := lock(filepath.Join(os.TempDir(), "weir-test-ports-"+strconv.Itoa(os.Getuid()), port))
	if err != nil || release == nil {
		t.Fatalf("the port %s stays taken after its test: %v", port, err)
	}
	release()
}
