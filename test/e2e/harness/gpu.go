package harness

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/sim/gpu"
)

// NewGPUs starts a pool of simulated inference servers on loopback, which the test's end closes. With o.DCGMPort each has a host
// of its own, 127.0.0.2 and so on, as exporters need it.
func NewGPUs(t testing.TB, servers int, o gpu.Options) *gpu.Pool {
	t.Helper()
	for i := range servers {
		host := "127.0.0.1"
		if o.DCGMPort != 0 {
			host = fmt.Sprintf("127.0.0.%d", i+2)
		}
		o.Addresses = append(o.Addresses, net.JoinHostPort(host, "0"))
	}
	p, err := gpu.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Endpoints renders the endpoints of a Backend of these servers.
func Endpoints(p *gpu.Pool) string {
	var list []string
	for _, s := range p.Servers {
		host, port, _ := net.SplitHostPort(s.Addr())
		list = append(list, fmt.Sprintf("{address: %s, port: %s}", host, port))
	}
	return "endpoints: [" + strings.Join(list, ", ") + "]\n"
}
