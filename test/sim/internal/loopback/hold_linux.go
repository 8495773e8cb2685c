package loopback

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Held is a port that stays this process's while nobody listens on it: connections to it are refused, and none that goes
// out gets it as its own. Without, a port that is free for a moment may be gone for good.
type Held struct {
	addr string
	fd   int
}

// Hold takes host:port as Listen does. It must come before any Listen on the same address, and does not stand in its way.
func Hold(ctx context.Context, addr string) (*Held, error) {
	a, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	family, sa := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())})
	if v4 := a.IP.To4(); v4 != nil {
		family, sa = syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot hold %s: %w", addr, os.NewSyscallError("socket", err))
	}
	h := &Held{fd: fd}
	if err := h.bind(sa, a.IP); err != nil {
		h.Release()
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return h, nil
}

func (h *Held) bind(sa syscall.Sockaddr, ip net.IP) error {
	// Go's listeners have it too; Linux lets both be bound as long as one of them at most listens.
	if err := syscall.SetsockoptInt(h.fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(h.fd, sa); err != nil {
		return os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(h.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	a := net.TCPAddr{IP: ip}
	switch b := bound.(type) {
	case *syscall.SockaddrInet4:
		a.Port = b.Port
	case *syscall.SockaddrInet6:
		a.Port = b.Port
	}
	h.addr = a.String()
	return nil
}

// Addr is host:port, with the port that it got.
func (h *Held) Addr() string { return h.addr }

// Release gives the port up. Call it once.
func (h *Held) Release() { _ = syscall.Close(h.fd) } // what cannot be closed is not open
