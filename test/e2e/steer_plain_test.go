package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// plainEnvoy runs Envoy as a proxy and nothing else, with a listener for each of some pools, which it balances by one of its own policies:
// ROUND_ROBIN, LEAST_REQUEST. It tries again as often as Weir does in these tests. It gives the URLs, in order.
func plainEnvoy(t *testing.T, policies []string, pools []*gpu.Pool) (urls []string) {
	t.Helper()
	base, err := os.MkdirTemp("", "weir-e2e-") // its names are short, as the path of a unix socket must be
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: base})
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	admin, err := dir.Socket(envoy.AdminSocketName)
	must(t, err)

	var listeners, clusters, listen []string
	for i, policy := range policies {
		port := harness.FreePort(t)
		urls = append(urls, fmt.Sprintf("http://127.0.0.1:%d", port))
		listen = append(listen, fmt.Sprintf("127.0.0.1:%d", port))
		var endpoints []string
		for _, s := range pools[i].Servers {
			host, p, _ := net.SplitHostPort(s.Addr())
			endpoints = append(endpoints, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":%q,"port_value":%s}}}}`, host, p))
		}
		listeners = append(listeners, fmt.Sprintf(`{"name":%[1]q,"address":{"socket_address":{"address":"127.0.0.1","port_value":%[2]d}},"filter_chains":[{"filters":[{
			"name":"envoy.filters.network.http_connection_manager","typed_config":{
			"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":%[1]q,
			"route_config":{"virtual_hosts":[{"name":"all","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":%[1]q,"timeout":"600s",
			"retry_policy":{"retry_on":"5xx,connect-failure,refused-stream","num_retries":2}}}]}]},
			"http_filters":[{"name":"envoy.filters.http.router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`, policy, port))
		clusters = append(clusters, fmt.Sprintf(`{"name":%[1]q,"type":"STATIC","lb_policy":%[1]q,"connect_timeout":"0.5s",
			"circuit_breakers":{"thresholds":[{"max_connections":4096,"max_pending_requests":4096,"max_requests":16384,"max_retries":16384}]},
			"load_assignment":{"cluster_name":%[1]q,"endpoints":[{"lb_endpoints":[%[2]s]}]}}`, policy, strings.Join(endpoints, ",")))
	}
	boot := fmt.Sprintf(`{"node":{"id":"plain","cluster":"plain"},"admin":{"address":{"pipe":{"path":%q,"mode":384}}},"static_resources":{"listeners":[%s],"clusters":[%s]}}`,
		admin, strings.Join(listeners, ","), strings.Join(clusters, ","))
	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: harness.EnvoyBinary(t), Bootstrap: []byte(boot), RuntimeDir: dir.Path(), AdminSocket: admin,
		LogLevel: slog.LevelWarn, Logger: slog.New(slog.DiscardHandler), Listen: listen,
	})
	must(t, err)
	must(t, sup.Start(t.Context()))
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := sup.Stop(stop); err != nil {
			t.Error(err)
		}
	})
	must(t, sup.WaitReady(t.Context()))
	return urls
}
