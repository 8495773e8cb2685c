package envoy

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestCheckListen(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	free := freeAddress(t)

	if err := CheckListen(); err != nil {
		t.Errorf("no address: %v", err)
	}
	if err := CheckListen(free, free); err != nil {
		t.Errorf("a free address, and again after it was let go: %v", err)
	}
	for _, tt := range []struct{ address, want string }{
		{"127.0.0.1:" + port, "127.0.0.1:" + port + " is already in use by "},
		{"0.0.0.0:" + port, "0.0.0.0:" + port + " is already in use by "},
		{"192.0.2.1:8080", "no network interface of this machine has that address"}, // TEST-NET-1 (RFC 5737)
		{"127.0.0.1:99999", "invalid port"},
		{"nonsense", "missing port"},
	} {
		err := CheckListen(free, tt.address)
		var le *ListenError
		if !errors.As(err, &le) || le.Address != tt.address || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", tt.address, err, tt.want)
		}
	}
	if err := CheckListen("127.0.0.1:" + port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the cause is lost: %v", err)
	}
	// Several are all told.
	err = CheckListen("127.0.0.1:"+port, "192.0.2.1:8080")
	if err == nil || !strings.Contains(err.Error(), "already in use") || !strings.Contains(err.Error(), "no network interface") {
		t.Errorf("two: %v", err)
	}
}
