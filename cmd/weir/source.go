package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/fleet"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/kubernetes"
)

// scopeOptions are the flags that say which objects of a cluster are meant.
type scopeOptions struct {
	namespaces []string
	gateways   []string
	routes     allowedRoutes
}

// allowedRoutes is the flag --allowed-routes: whose Routes an LLMGateway takes that does not say so itself; "" where it is not given.
type allowedRoutes v1alpha1.FromNamespaces

// String implements pflag.Value.
func (a *allowedRoutes) String() string { return string(*a) }

// Type implements pflag.Value.
func (a *allowedRoutes) Type() string { return "All|Same" }

// Set implements pflag.Value.
func (a *allowedRoutes) Set(text string) error {
	switch from := v1alpha1.FromNamespaces(text); from {
	case v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSame:
		*a = allowedRoutes(from)
		return nil
	}
	return fmt.Errorf("write %s or %s; labels are selected by spec.allowedRoutes of the LLMGateway", v1alpha1.NamespacesFromAll, v1alpha1.NamespacesFromSame)
}

func (o *scopeOptions) bind(f *pflag.FlagSet) {
	f.StringSliceVar(&o.namespaces, "namespace", nil, "namespace of a cluster to read objects of; repeatable (default: all)")
	f.Var(&o.routes, "allowed-routes", "whose Routes an LLMGateway of a cluster takes that has no spec.allowedRoutes: of All namespaces, or of the Same as its own (default All)")
	f.StringSliceVar(&o.gateways, "gateway", nil, "LLMGateway of a cluster to serve, as namespace/name; repeatable (default: all)")
}

// names reads the flag --gateway.
func (o *scopeOptions) names() (out []types.NamespacedName, err error) {
	for _, text := range o.gateways {
		namespace, name, ok := strings.Cut(text, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return nil, fmt.Errorf("--gateway %q: write namespace/name", text)
		}
		out = append(out, types.NamespacedName{Namespace: namespace, Name: name})
	}
	return out, nil
}

// kubernetesOptions are the flags of every command that reads objects from a Kubernetes API server.
type kubernetesOptions struct {
	kubeconfig   string
	kubeContext  string
	localSecrets []string
	install      string
	scopeOptions
}

func (o *kubernetesOptions) bind(f *pflag.FlagSet) {
	o.scopeOptions.bind(f)
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how the API server is reached (default: $KUBECONFIG, the Pod's service account, or ~/.kube/config)")
	f.StringVar(&o.kubeContext, "kube-context", "", "context of the kubeconfig (default: its current one)")
	f.StringSliceVar(&o.localSecrets, "local-secrets", nil, "namespace whose objects may read environment variables and files of this process; repeatable (default: Weir's own, by $POD_NAMESPACE)")
	f.StringVar(&o.install, "install-name", "weir", "name of this installation: its replicas count together in the status of objects, and one of them writes it")
}

// config says how the API server is reached: by the flags, else as kubectl does, else by the Pod's service account.
func (o *kubernetesOptions) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.kubeContext}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("there is no way to the API server: %w", err)
	}
	return config, nil
}

// open makes the source. What is over counts as if it had been applied.
func (o *kubernetesOptions) open(config *rest.Config, log *slog.Logger, registry prometheus.Registerer, over []source.Object) (*kubernetes.Source, error) {
	gateways, err := o.names()
	if err != nil {
		return nil, err
	}
	kubernetes.SendLibraryLogs(log)
	local := o.localSecrets
	if len(local) == 0 {
		local = []string{podNamespace()}
	}
	return kubernetes.New(kubernetes.Options{
		Config: config, Namespaces: o.namespaces, Gateways: gateways, LocalSecrets: local, Env: os.LookupEnv, Log: log, Registry: registry,
		Overlay: over,
	})
}

// controlOptions are the flags of a gateway that gets its objects from a control plane.
type controlOptions struct {
	addresses  []string
	serverName string
	tls        fleet.Files
}

func (o *controlOptions) bind(f *pflag.FlagSet) {
	f.StringSliceVar(&o.addresses, "control", nil, "address of a control plane (weir control) to get objects from, as host:port; repeatable")
	f.StringVar(&o.tls.CA, "control-ca", "", "file with the authorities that the control plane's certificate is signed by, PEM")
	f.StringVar(&o.tls.Cert, "control-cert", "", "file with the certificate that the control plane is shown, PEM; read anew when it changes")
	f.StringVar(&o.tls.Key, "control-key", "", "file with its private key, PEM")
	f.StringVar(&o.serverName, "control-name", "", "DNS name or SPIFFE ID that the control plane's certificate must have (default: the host of its address)")
}

func (o *controlOptions) open(scope scopeOptions, cacheFile string, log *slog.Logger, registry prometheus.Registerer) (*fleet.Client, error) {
	gateways, err := scope.names()
	if err != nil {
		return nil, err
	}
	name, err := podName()
	if err != nil {
		return nil, err
	}
	return fleet.NewClient(fleet.ClientOptions{
		Addresses: o.addresses, TLS: o.tls, ServerName: o.serverName, CacheFile: cacheFile, Log: log, Registry: registry,
		Node: fleet.Node{ID: podNamespace() + "/" + name, Version: buildVersion(), Scope: fleet.Scope{Namespaces: scope.namespaces, Gateways: gateways}},
	})
}

// sourceOptions are the flags of a gateway whose objects need not be in a folder.
type sourceOptions struct {
	kubernetes   bool
	cacheKeyFile string
	noCache      bool
	kubernetesOptions
	controlOptions
}

func (o *sourceOptions) bind(f *pflag.FlagSet) {
	f.BoolVar(&o.kubernetes, "kubernetes", false, "read objects from the Kubernetes API server instead of a folder, and write their status")
	f.StringVar(&o.cacheKeyFile, "cache-key-file", "", "file with 32 random bytes or more, of which the key comes that seals what is kept for a start without the API server (default: cache.key in the socket directory, which is made)")
	f.BoolVar(&o.noCache, "no-cache", false, "keep nothing for a start without the API server")
	o.kubernetesOptions.bind(f)
	o.controlOptions.bind(f)
}

// elsewhere says whether objects come from elsewhere than a folder.
func (o *sourceOptions) elsewhere() bool { return o.kubernetes || len(o.addresses) > 0 }

func (o *sourceOptions) check() error {
	if o.kubernetes && len(o.addresses) > 0 {
		return errors.New("--kubernetes and --control exclude each other: objects come from one place")
	}
	for _, f := range []struct {
		given, belongs bool
		flags, to      string
	}{
		{o.kubeconfig != "" || o.kubeContext != "" || len(o.localSecrets) > 0, o.kubernetes, "--kubeconfig, --kube-context and --local-secrets", "--kubernetes"},
		{o.cacheKeyFile != "" || o.noCache, o.kubernetes, "--cache-key-file and --no-cache", "--kubernetes"},
		{len(o.namespaces) > 0 || len(o.gateways) > 0 || o.routes != "", o.elsewhere(), "--namespace, --gateway and --allowed-routes", "--kubernetes or --control"},
		{o.tls != fleet.Files{} || o.serverName != "", len(o.addresses) > 0, "--control-ca, --control-cert, --control-key and --control-name", "--control"},
	} {
		if f.given && !f.belongs {
			return fmt.Errorf("%s belong to %s", f.flags, f.to)
		}
	}
	return nil
}

// keep has what is served of a cluster kept in a file of the state directory; nil where nothing is to be kept.
func (o *sourceOptions) keep(src source.Source, host, dir, socketDir string, log *slog.Logger) (*fleet.Kept, error) {
	if o.noCache {
		return nil, nil
	}
	key, err := o.cacheKey(socketDir)
	if err != nil {
		return nil, err
	}
	gateways, err := o.names()
	if err != nil {
		return nil, err
	}
	return fleet.NewKept(fleet.KeptOptions{
		Source: src, File: filepath.Join(dir, keptName), Key: key, Of: host, Log: log,
		Scope: fleet.Scope{Namespaces: o.namespaces, Gateways: gateways},
	})
}

// podNamespace is the namespace that Weir runs in: by the downward API, by the service account, or "default" outside of a cluster.
func podNamespace() string {
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns
	}
	if raw, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace"); err == nil {
		if ns := strings.TrimSpace(string(raw)); ns != "" {
			return ns
		}
	}
	return "default"
}

// podName names this replica.
func podName() (string, error) {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this replica has no name: set POD_NAME: %w", err)
	}
	return strings.ToLower(name), nil
}
