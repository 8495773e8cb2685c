package envoy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// ListenError says why nothing can listen on an address, in a sentence for the person who chose it.
type ListenError struct {
	Address string
	Message string
	Err     error
}

func (e *ListenError) Error() string { return e.Message }
func (e *ListenError) Unwrap() error { return e.Err }

// CheckListen tries to listen on each "host:port" for a moment and returns a *ListenError for every one
// that cannot be had, joined. Envoy could not tell: its listeners set SO_REUSEPORT, with which two
// Envoys of one user share a port silently. Another process may still take the port afterwards.
func CheckListen(addresses ...string) error {
	var errs []error
	for _, a := range addresses {
		l, err := net.Listen(tcpNetwork(a), a)
		if err == nil {
			l.Close()
			continue
		}
		e := &ListenError{Address: a, Err: err}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			e.Message = inUse(a)
		case errors.Is(err, syscall.EACCES):
			e.Message = notPermitted(a)
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			e.Message = noSuchAddress(a)
		default:
			e.Message = fmt.Sprintf("cannot listen on %q: %v", a, err)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// tcpNetwork keeps an IPv4 address IPv4: Go listens on 0.0.0.0 for IPv6 too, and Envoy does not.
func tcpNetwork(address string) string {
	host, _, err := net.SplitHostPort(address)
	if ip, perr := netip.ParseAddr(host); err == nil && perr == nil && ip.Is4() {
		return "tcp4"
	}
	return "tcp"
}

func inUse(address string) string {
	by := ""
	if owner := portOwner(address); owner != "" {
		by = " by " + owner
	}
	// A unix socket's path has no port to change.
	if strings.HasPrefix(address, "/") {
		return fmt.Sprintf("%s is already in use%s: stop that process or choose another path", address, by)
	}
	return fmt.Sprintf("%s is already in use%s: stop that process or choose another port", address, by)
}

func notPermitted(address string) string {
	return fmt.Sprintf("no permission to listen on %s: choose a port above 1023, or give this process the capability CAP_NET_BIND_SERVICE", address)
}

func noSuchAddress(address string) string {
	return fmt.Sprintf("cannot listen on %s: no network interface of this machine has that address", address)
}
