// Package loopback listens on loopback addresses, and on no others: a simulator accepts any key and says anything.
package loopback

import (
	"context"
	"fmt"
	"net"
)

// Listen binds host:port. A missing host means 127.0.0.1, and port 0 any free one.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	a, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.String())
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return l, nil
}

// resolve is the address that host:port stands for.
func resolve(ctx context.Context, addr string) (*net.TCPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("the address %q is not host:port: %w", addr, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("refusing to listen on %q: a simulator serves loopback only, use 127.0.0.1:%s", addr, port)
	}
	var r net.Resolver
	n, err := r.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, fmt.Errorf("the address %q has no port: %w", addr, err)
	}
	ips, err := r.LookupIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return nil, fmt.Errorf("refusing to listen on %q: it resolves to %v, which is not loopback", addr, ip)
		}
	}
	best := ips[0]
	for _, ip := range ips {
		if ip.To4() != nil { // as clients expect of localhost
			best = ip
			break
		}
	}
	return &net.TCPAddr{IP: best, Port: n}, nil
}
