package compile

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weir-dev/weir/envoy"
)

// TestEnvoyAcceptsGoldens shows every golden to the real Envoy: field rules are not all that it checks.
func TestEnvoyAcceptsGoldens(t *testing.T) {
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range goldens(t) {
		t.Run(name, func(t *testing.T) {
			opts := options(t)
			opts.SystemCAs = filepath.Join(t.TempDir(), "ca.pem") // Envoy reads it
			authority, _ := keyPair(t, 1)
			if err := os.WriteFile(opts.SystemCAs, []byte(authority), 0o600); err != nil {
				t.Fatal(err)
			}
			v, problems := Compile(load(t, in), opts)
			if v == nil {
				t.Fatal(problems)
			}
			if out, err := validate(t, bin.Path, v); err != nil {
				t.Errorf("Envoy refuses it: %v\n%s", err, out)
			}
		})
	}
}

// TestEnvoyIsAsked: the test above would see a refusal.
func TestEnvoyIsAsked(t *testing.T) {
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v := compileText(t, goldens(t)["minimal"])
	for _, c := range v.Clusters.All() {
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED // of which plain clusters have none
	}
	if out, err := validate(t, bin.Path, v); err == nil {
		t.Errorf("Envoy accepts clusters that provide no load balancer:\n%s", out)
	}
}

// validate runs `envoy --mode validate` over a bootstrap that holds what Weir would send over xDS.
func validate(t *testing.T, path string, v *Version) (string, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "bootstrap.json")
	boot := static(t, v, envoy.BootstrapOptions{AdminSocket: "/tmp/weir-validate-admin.sock", XDSSocket: "/tmp/weir-validate-xds.sock"})
	if err := os.WriteFile(file, boot, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "--mode", "validate", "-c", file, "--log-level", "warning", "--use-dynamic-base-id").CombinedOutput()
	return string(out), err
}

// static writes a version into a bootstrap: routes into the listeners, endpoints into the clusters. Nothing is left to come over xDS.
func static(t testing.TB, v *Version, opts envoy.BootstrapOptions) []byte {
	t.Helper()
	raw, err := envoy.Bootstrap(opts)
	if err != nil {
		t.Fatal(err)
	}
	boot := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(raw, boot); err != nil {
		t.Fatal(err)
	}
	boot.DynamicResources.LdsConfig, boot.DynamicResources.CdsConfig = nil, nil
	res := boot.GetStaticResources()
	for _, name := range namesOf(v.Clusters) {
		c := proto.Clone(v.Clusters.Get(name)).(*clusterv3.Cluster)
		if eds := c.GetEdsClusterConfig(); eds != nil {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			c.LoadAssignment, c.EdsClusterConfig = v.Endpoints[eds.GetServiceName()], nil
		}
		res.Clusters = append(res.Clusters, c)
	}
	for _, name := range keysOf(v.Listeners) {
		l := proto.Clone(v.Listeners[name]).(*listenerv3.Listener)
		for _, chain := range l.GetFilterChains() {
			for _, f := range chain.GetFilters() {
				inlineRoutes(t, f.GetTypedConfig(), v)
			}
		}
		res.Listeners = append(res.Listeners, l)
	}
	for _, name := range keysOf(v.Secrets) {
		res.Secrets = append(res.Secrets, v.Secrets[name])
	}
	out, err := protojson.Marshal(boot)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func inlineRoutes(t testing.TB, config *anypb.Any, v *Version) {
	t.Helper()
	hcm := &hcmv3.HttpConnectionManager{}
	if !config.MessageIs(hcm) {
		return
	}
	if err := config.UnmarshalTo(hcm); err != nil {
		t.Fatal(err)
	}
	list := &hcmv3.ScopedRouteConfigurationsList{}
	scopes := Scopes(v.Routes, v.MaxBody)
	for _, name := range keysOf(scopes) {
		list.ScopedRouteConfigurations = append(list.ScopedRouteConfigurations, scopes[name])
	}
	hcm.GetScopedRoutes().ConfigSpecifier = &hcmv3.ScopedRoutes_ScopedRouteConfigurationsList{ScopedRouteConfigurationsList: list}
	config.Value = deterministic(hcm)
}
