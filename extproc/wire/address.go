package wire

import (
	"net"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Address is an address as Envoy prints it, "ip:port" or "[v6]:port"; "" for none.
func Address(a *corev3.SocketAddress) string {
	if a == nil {
		return ""
	}
	return net.JoinHostPort(a.GetAddress(), strconv.FormatUint(uint64(a.GetPortValue()), 10))
}
