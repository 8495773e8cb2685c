package kubetest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Cluster is a kube-apiserver and an etcd, in the hands of one test.
type Cluster struct {
	// Config is an administrator's.
	Config *rest.Config
	// Client is the administrator's, for Kubernetes' own kinds, CustomResourceDefinitions and Weir's. It reads from the server, not from a cache.
	Client client.WithWatch

	t       testing.TB
	servers *servers
	own     bool // nobody else has it
}

// callTimeout bounds what this package asks of the API server. Nothing takes this long unless it is broken.
const callTimeout = time.Minute

// Start starts a cluster of the test's own, which ends with the test. Prefer Shared: a cluster takes 300 MB and some seconds
// of a processor.
func Start(t testing.TB) *Cluster {
	t.Helper()
	s, err := launch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if logs := s.stop(t.Failed()); logs != "" {
			t.Logf("the logs of kube-apiserver and etcd are in %s", logs)
		}
	})
	c := newCluster(t, s)
	c.own = true
	c.InstallCRDs()
	return c
}

// shared is the cluster of a test binary. It is the one thing here that is the package's: Go gives TestMain no way to hand
// anything to tests.
var shared struct {
	sync.Mutex
	main    bool // TestMain calls Main
	servers *servers
	err     error // why it could not be started
}

// Main is the body of TestMain of a package whose tests call Shared: it runs them, ends the cluster and the process. m is the *testing.M, or what
// runs that and has something to do itself.
func Main(m interface{ Run() int }) {
	shared.Lock()
	shared.main = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.servers != nil {
		if logs := shared.servers.stop(code != 0); logs != "" {
			fmt.Fprintf(os.Stderr, "the logs of kube-apiserver and etcd are in %s\n", logs)
		}
	}
	os.Exit(code)
}

// Shared is the cluster that all tests of a package use, each in a Namespace of its own. The first one that asks starts it. Its
// TestMain calls Main. A test that stops the API server or changes etcd's data must not run in parallel with others; when it
// ends, the server is running again and the CustomResourceDefinitions are installed.
func Shared(t testing.TB) *Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.main {
		t.Fatal("a package whose tests call kubetest.Shared needs: func TestMain(m *testing.M) { kubetest.Main(m) }")
	}
	if shared.servers == nil && shared.err == nil {
		shared.servers, shared.err = launch()
		if shared.err == nil {
			newCluster(t, shared.servers).InstallCRDs()
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	c := newCluster(t, shared.servers)
	t.Cleanup(c.repair)
	return c
}

// scheme has the kinds of the client.
func scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newCluster(t testing.TB, s *servers) *Cluster {
	t.Helper()
	c, err := openCluster(s)
	if err != nil {
		t.Fatal(err)
	}
	c.t = t
	return c
}

// openCluster makes the client of a cluster that belongs to no test yet.
func openCluster(s *servers) (*Cluster, error) {
	kinds, err := scheme()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Config: rest.CopyConfig(s.admin), servers: s}
	// Its map of kinds is read when it is first needed.
	c.Client, err = client.NewWithWatch(c.Config, client.Options{Scheme: kinds})
	return c, err
}

// repair makes a cluster fit for the next test.
func (c *Cluster) repair() {
	c.servers.mu.Lock()
	down, wiped := c.servers.apiserver == nil, c.servers.wiped
	c.servers.mu.Unlock()
	if down {
		c.StartAPIServer()
	}
	if wiped {
		c.InstallCRDs()
	}
}

// context bounds calls that belong to the test. It is not the test's own context, which ends before the cleanups do.
func (c *Cluster) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

// Namespace makes a namespace with a new name. What is in it goes with the test, and then the namespace itself: here is no
// controller that would do so.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Annotations: map[string]string{"weir.dev/test": t.Name()}}}
	if err := c.Client.Create(ctx, ns); err != nil {
		t.Fatalf("a namespace cannot be made: %v", err)
	}
	if !c.own {
		t.Cleanup(func() {
			if err := c.remove(ns); err != nil {
				t.Errorf("the namespace %s cannot be removed: %v", ns.Name, err)
			}
		})
	}
	return ns.Name
}
