package e2e

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/extproc/limit"
	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// plane is a real Envoy with the servers that it asks in this process, so that a test sees the records of its requests.
type plane struct {
	url string

	mu      sync.Mutex
	records map[string][]usage.Record // by request ID
}

// planeOptions say what a plane serves.
type planeOptions struct {
	listener  string // further fields of the LLMGateway as YAML
	backends  []harness.Backend
	documents []string
	grpc      []grpc.ServerOption // of the server that Envoy asks
}

// newPlane runs Envoy until the test ends.
func newPlane(t *testing.T, o planeOptions) *plane {
	t.Helper()
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	must(t, err)
	objs, problems := files.Load(o.write(t), os.LookupEnv)
	if source.HasErrors(problems) {
		t.Fatal(problems)
	}
	listen := net.JoinHostPort("127.0.0.1", strconv.Itoa(harness.FreePort(t)))
	version, problems := compile.Compile(objs, compile.Options{Dialects: dialects, ExtProcCluster: envoy.ExtProcCluster, Listen: listen})
	if version == nil {
		t.Fatal(problems)
	}
	p := &plane{url: "http://" + listen, records: map[string][]usage.Record{}}
	p.serve(t, version, dialects, o.grpc)
	return p
}

// write writes the objects into a folder.
func (o planeOptions) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)) }
	write("gateway.yaml", harness.Listener(o.listener))
	write("consumer.yaml", harness.Consumer("app", harness.DefaultKey, ""))
	for _, b := range o.backends {
		write(b.SecretFile(), harness.BackendKey(b.Name))
		write(b.Name+".yaml", b.YAML())
	}
	for i, d := range o.documents {
		write("document-"+strconv.Itoa(i)+".yaml", d)
	}
	return dir
}

// serve runs the servers and Envoy, and waits until it serves version.
func (p *plane) serve(t *testing.T, version *compile.Version, dialects *adapters.Set, options []grpc.ServerOption) {
	t.Helper()
	// Not t.TempDir: its names are long, and the path of a unix socket must be short.
	base, err := os.MkdirTemp("", "weir-e2e-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir, err := envoy.NewRuntimeDir(envoy.RuntimeDirOptions{Base: base})
	must(t, err)
	t.Cleanup(func() { _ = dir.Close() })
	socket, err := dir.Socket(envoy.ExtProcSocketName)
	must(t, err)
	admin, err := dir.Socket(envoy.AdminSocketName)
	must(t, err)

	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	limits, estimator, reg := limit.New(limit.Options{}), usage.NewEstimator(), prometheus.NewRegistry()
	t.Cleanup(func() { limits.Close(context.Background()) })
	entries, err := ledger.Open(t.TempDir(), ledger.Options{Now: time.Now, Log: quiet})
	must(t, err)
	t.Cleanup(func() { must(t, entries.Close()) })
	desk := usage.NewDesk(usage.DeskOptions{Ledger: entries, Estimator: estimator, Registry: reg, Now: time.Now})
	ext := extproc.New(extproc.Options{
		Dialects: dialects, Log: quiet, Limits: limits, Breakers: breaker.New(breaker.Options{}), Desk: desk, Estimator: estimator,
	})
	live := make(chan struct{})
	activate := func(v *compile.Version) { ext.Use(v.Table); close(live) }
	publisher := serve.NewPublisher(serve.Options{NodeID: "weir", Log: quiet, Activate: activate})
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.ForceServerCodecV2(usage.Codec()),
	}, options...)...)
	ext.Register(server)
	publisher.Register(server)
	usage.NewReceiver(p.note, desk.Close, func(r *usage.Record) { ext.Release(r.Exchange) }).Register(server)
	lis, err := net.Listen("unix", socket)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) }) // Stop ends it
	wg.Go(func() { publisher.Run(ctx) })
	t.Cleanup(func() { cancel(); server.Stop(); wg.Wait() })
	publisher.Publish(version)

	boot, err := envoy.Bootstrap(envoy.BootstrapOptions{AdminSocket: admin, XDSSocket: socket})
	must(t, err)
	sup, err := envoy.NewSupervisor(envoy.SupervisorOptions{
		Binary: harness.EnvoyBinary(t), Bootstrap: boot, RuntimeDir: dir.Path(), AdminSocket: admin,
		LogLevel: slog.LevelWarn, Logger: quiet, Listen: []string{strings.TrimPrefix(p.url, "http://")},
		FlushGrace: compile.AccessLogFlush,
	})
	must(t, err)
	must(t, sup.Start(ctx))
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		if err := sup.Stop(stop); err != nil {
			t.Error(err)
		}
	})
	must(t, sup.WaitReady(ctx))
	<-live
}

func (p *plane) note(r *usage.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records[r.RequestID] = append(p.records[r.RequestID], *r)
}

// record waits for the record of a request, by the x-request-id that it was sent with.
func (p *plane) record(t *testing.T, id string) usage.Record {
	t.Helper()
	var found []usage.Record
	harness.WaitFor(t, "the record of "+id, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		found = p.records[id]
		return len(found) > 0
	})
	if len(found) != 1 {
		t.Fatalf("%d records of %s", len(found), id)
	}
	return found[0]
}

// gateway lets the helpers for gateways send requests to the plane.
func (p *plane) gateway() *harness.Gateway {
	return &harness.Gateway{URL: p.url, Key: harness.DefaultKey}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
