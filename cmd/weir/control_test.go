package main

import (
	"net"
	"strings"
	"testing"
)

func TestOwnAddress(t *testing.T) {
	at := func(address string) net.Addr {
		a, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tc := range []struct {
		address, listen string
		want            bool
	}{
		{"127.0.0.1:18000", ":18000", true},
		{"127.0.0.1:18000", "127.0.0.1:18000", true},
		{"127.0.0.1:18001", ":18000", false},
		{"192.0.2.1:18000", ":18000", false}, // of nobody: a network for documentation
		{"localhost:18000", ":18000", false},
	} {
		if got := ownAddress(tc.address, at(tc.listen)); got != tc.want {
			t.Errorf("%s is an address of a listener on %s: %v, want %v", tc.address, tc.listen, got, tc.want)
		}
	}
}

func TestPeersAreAddresses(t *testing.T) {
	for _, address := range []string{"control", ":18000", "control:"} {
		err := checkPeers([]string{"control:18000", address})
		if err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
			t.Errorf("%q: %v", address, err)
		}
	}
	if err := checkPeers([]string{"control:18000", "[fd00::1]:18000"}); err != nil {
		t.Error(err)
	}
}
