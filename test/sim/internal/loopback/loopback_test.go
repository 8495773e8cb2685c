package loopback

import (
	"net"
	"strings"
	"testing"
)

func TestListen(t *testing.T) {
	for _, addr := range []string{":0", "127.0.0.1:0", "localhost:0", "127.1.2.3:0"} {
		l, err := Listen(t.Context(), addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("%s: bound to %s", addr, l.Addr())
		}
		_ = l.Close()
	}
}

func TestHold(t *testing.T) {
	for _, addr := range []string{":0", "localhost:0", "127.1.2.3:0"} {
		h, err := Hold(t.Context(), addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		for range 3 {
			if c, err := net.Dial("tcp", h.Addr()); err == nil {
				_ = c.Close()
				t.Errorf("%s takes connections, though nobody listens", h.Addr())
			}
			l, err := Listen(t.Context(), h.Addr())
			if err != nil {
				t.Fatal(err)
			}
			if l.Addr().String() != h.Addr() {
				t.Errorf("%s is held, and %s listens", h.Addr(), l.Addr())
			}
			c, err := net.Dial("tcp", h.Addr())
			if err != nil {
				t.Errorf("%s is held, and nobody can listen: %v", h.Addr(), err)
			} else {
				_ = c.Close()
			}
			_ = l.Close()
		}
		h.Release()
	}
}

func TestRefused(t *testing.T) {
	taken, err := Listen(t.Context(), ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, says := range map[string]string{
		"127.0.0.1": "not host:port", "0.0.0.0:0": "serves loopback only", "[::]:0": "serves loopback only", "example.com:80": "serves loopback only",
		"127.0.0.1:nothing": "has no port", taken.Addr().String(): "cannot listen on " + taken.Addr().String(),
	} {
		if l, err := Listen(t.Context(), addr); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Listen %s: %v, %v; want %q", addr, l, err, says)
		}
		if h, err := Hold(t.Context(), addr); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Hold %s: %v, %v; want %q", addr, h, err, says)
		}
	}
}
