package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// objects are a pool, another Backend, and a Route that divides requests among them.
const objects = `
{apiVersion: weir.dev/v1alpha1, kind: LLMGateway, metadata: {name: g}, spec: {listeners: [{name: http, address: 127.0.0.1, port: %d}]}}
---
{apiVersion: weir.dev/v1alpha1, kind: Backend, metadata: {name: pool}, spec: {dialect: openai, basePath: /v1, endpoints: [{address: 127.0.0.1, port: 1}, {address: 127.0.0.1, port: 2}]}}
---
{apiVersion: weir.dev/v1alpha1, kind: Backend, metadata: {name: other}, spec: {dialect: openai, url: 'http://127.0.0.1:3/v1'}}
---
{apiVersion: weir.dev/v1alpha1, kind: Route, metadata: {name: r}, spec: {rules: [{backends: [{name: pool, weight: 1}, {name: other, weight: 1}]}]}}
---
{apiVersion: weir.dev/v1alpha1, kind: Consumer, metadata: {name: c}, spec: {}}
---
{apiVersion: weir.dev/v1alpha1, kind: APIKey, metadata: {name: k}, spec: {consumer: c, hash: '%s'}}
`

func compileObjects(t *testing.T, port int) *compile.Version {
	t.Helper()
	return compileText(t, fmt.Sprintf(objects, port, identity.HashKey("0123456789abcdef")))
}

func compileText(t testing.TB, text string) *compile.Version {
	t.Helper()
	objs, opts := loadText(t, text)
	v, problems := compile.Compile(objs, opts)
	if v == nil {
		t.Fatal(problems)
	}
	return v
}

func loadText(t testing.TB, text string) (*source.Objects, compile.Options) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "objects.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	objs, problems := files.Load(dir, os.LookupEnv)
	if source.HasErrors(problems) {
		t.Fatal(problems)
	}
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return objs, compile.Options{Dialects: dialects, ExtProcCluster: envoy.ExtProcCluster}
}

// realEnvoy is a Publisher with the real Envoy before it, which has taken the version.
type realEnvoy struct {
	*Publisher
	admin   *envoy.Admin
	steered chan string
	live    <-chan string // IDs of versions
	version *compile.Version
}

// told is what Steered is told next.
func (r *realEnvoy) told(t *testing.T) string {
	t.Helper()
	select {
	case s := <-r.steered:
		return s
	case <-time.After(20 * time.Second): // far beyond what it takes
		t.Fatal("Steered is told nothing")
		return ""
	}
}

func startEnvoy(t *testing.T) *realEnvoy {
	t.Helper()
	port := freePort(t)
	r := &realEnvoy{version: compileObjects(t, port)}
	r.start(t, grpc.NewServer(), nil)
	return r
}

// freePort is a port on which nothing listens.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts Envoy, which gets the version from the server, and waits until it is live. activate, if set, is told each table.
func (r *realEnvoy) start(t *testing.T, server *grpc.Server, activate func(*table.Table)) {
	t.Helper()
	bin, err := envoy.Ensure(t.Context(), envoy.FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	socket, admin := filepath.Join(dir.Path(), envoy.XDSSocketName), filepath.Join(dir.Path(), envoy.AdminSocketName)
	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{XDSSocket: socket, AdminSocket: admin})
	if err != nil {
		t.Fatal(err)
	}
	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: bin.Path, Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: admin, Concurrency: 1, LogLevel: slog.LevelError,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.admin, r.steered = sup.Admin(), make(chan string, 100)
	live := make(chan string, 100)
	r.live = live
	r.Publisher = NewPublisher(Options{
		NodeID: "weir", Activate: func(v *compile.Version) {
			if activate != nil {
				activate(v.Table)
			}
			live <- v.ID
		}, Spread: 5 * time.Millisecond, Warming: sup.Admin().Warming, Log: slog.New(slog.DiscardHandler),
		Steered: func(serial uint64, _ time.Time, nack string) {
			r.steered <- strings.TrimSpace(fmt.Sprint(serial, " ", nack))
		},
	})
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	r.Register(server)
	go func() { _ = server.Serve(l) }() // Stop ends it
	ctx, cancel := context.WithCancel(context.Background())
	go r.Run(ctx)
	t.Cleanup(func() {
		stop, cancelStop := context.WithCancel(context.Background())
		cancelStop() // nothing is to be drained
		_ = sup.Stop(stop)
		server.Stop()
		cancel()
	})
	r.Publish(r.version)
	if err := sup.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sup.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.goesLive(t, r.version)
}

// goesLive waits until a version is served.
func (r *realEnvoy) goesLive(t *testing.T, v *compile.Version) {
	t.Helper()
	for {
		select {
		case id := <-r.live:
			if id == v.ID {
				return
			}
		case <-time.After(20 * time.Second): // far beyond what it takes
			t.Fatalf("the version does not go live: %+v", r.State())
		}
	}
}

// dump finds all objects in Envoy's configuration that have a field of that name, and returns its values.
func (r *realEnvoy) dump(t *testing.T, field string) (found []any) {
	t.Helper()
	raw, err := r.admin.ConfigDump(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if value, ok := v[field]; ok {
				found = append(found, value)
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(all)
	return found
}

// endpoints are Envoy's endpoints with the ports of the pool: "1=5/HEALTHY".
func (r *realEnvoy) endpoints(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, list := range r.dump(t, "lb_endpoints") {
		raw, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		var is []struct {
			Endpoint struct {
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
			} `json:"endpoint"`
			Health string `json:"health_status"`
			Weight int    `json:"load_balancing_weight"`
		}
		if err := json.Unmarshal(raw, &is); err != nil {
			t.Fatal(err)
		}
		for _, e := range is {
			if p := e.Endpoint.Address.Socket.Port; p == 1 || p == 2 {
				out = append(out, fmt.Sprintf("%d=%d/%s", p, e.Weight, e.Health))
			}
		}
	}
	slices.Sort(out)
	return out
}

// weights are those of all routes that choose among two clusters, without those that occur more than once.
func (r *realEnvoy) weights(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, w := range r.dump(t, "weighted_clusters") {
		var each []string
		list, _ := w.(map[string]any)["clusters"].([]any)
		for _, c := range list {
			weight, ok := c.(map[string]any)["weight"]
			if !ok {
				weight = 0
			}
			each = append(each, fmt.Sprint(weight))
		}
		if len(each) == 2 {
			out = append(out, strings.Join(each, ":"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestRealEnvoy: what Steered says Envoy has taken is in Envoy's configuration, and what it refuses is not.
func TestRealEnvoy(t *testing.T) {
	r := startEnvoy(t)
	var pool string
	for name, a := range r.version.Endpoints {
		if n := len(a.GetEndpoints()); n > 0 && len(a.GetEndpoints()[0].GetLbEndpoints()) == 2 {
			pool = name
		}
	}
	var routes []string
	for key, route := range r.version.Routes.All() {
		if len(route.GetRoute().GetWeightedClusters().GetClusters()) == 2 {
			routes = append(routes, key)
		}
	}
	if pool == "" || len(routes) == 0 {
		t.Fatalf("the version has the endpoints %v and the routes %v", keys(r.version.Endpoints), slices.Sorted(r.version.Routes.Names()))
	}
	own := r.endpoints(t)
	say := func(serial uint64, first, second int, shares ...uint32) *Overlay {
		o := &Overlay{Serial: serial, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{
			pool: says(said("127.0.0.1:1", first, healthy), said("127.0.0.1:2", second, unhealthy)),
		}, Weights: map[string][]uint32{}}
		for _, key := range routes {
			o.Weights[key] = shares
		}
		return o
	}
	check := func(endpoints []string, weights string) {
		t.Helper()
		if got := r.endpoints(t); !slices.Equal(got, endpoints) {
			t.Errorf("Envoy has the endpoints %q, want %q", got, endpoints)
		}
		if got := r.weights(t); !slices.Equal(got, []string{weights}) {
			t.Errorf("Envoy has the weights %q, want %q", got, weights)
		}
	}
	check(own, "1:1")

	r.Steer(say(1, 287, 5, 30, 70))
	if got := r.told(t); got != "1" {
		t.Fatalf("told %q", got)
	}
	check([]string{"1=287/HEALTHY", "2=5/UNHEALTHY"}, "30:70")

	r.Steer(say(2, 1000, 6, 0, 9)) // one of them gets nothing
	if got := r.told(t); got != "2" {
		t.Fatalf("told %q", got)
	}
	check([]string{"1=1000/HEALTHY", "2=6/UNHEALTHY"}, "0:9")

	refused := say(3, 7, 7, 1, 1)
	refused.Endpoints[pool].Endpoints[0].Priority = 129 // Envoy has 128 of them
	r.Steer(refused)
	if got := r.told(t); !strings.HasPrefix(got, "3 ClusterLoadAssignment: ") {
		t.Fatalf("told %q", got)
	}
	r.Steer(say(4, 1000, 6, 0, 9)) // as before, and after what was taken back
	if got := r.told(t); got != "4" {
		t.Fatalf("told %q", got)
	}
	check([]string{"1=1000/HEALTHY", "2=6/UNHEALTHY"}, "0:9")

	r.Steer(&Overlay{Serial: 5})
	if got := r.told(t); got != "5" {
		t.Fatalf("told %q", got)
	}
	check(own, "1:1")
	if s := r.State(); s.Serving != r.version.ID || s.Rejects != 0 || s.Rejected != "" {
		t.Errorf("state: %+v", s)
	}
}
