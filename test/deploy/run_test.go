package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/test/kubetest"
)

// served are objects that need everything a release may read: a Secret, a Service with its EndpointSlices, and Pods.
var served = []string{
	object("LLMGateway", namespace, "", "listeners: [{name: http, port: 8080}]"),
	object("Backend", namespace, "", "dialect: openai, url: 'https://api.example.com/v1', credential: {secretRef: {name: openai-key}}"),
	strings.Replace(object("Backend", namespace, "", "dialect: openai, service: {name: pool, port: 8000}"), "name: o", "name: service", 1),
	strings.Replace(object("Backend", namespace, "", "dialect: openai, selector: {matchLabels: {app: pool}, port: 8000}"), "name: o", "name: pods", 1),
	object("Route", namespace, "", "rules: [{backends: [{name: o}, {name: service, priority: 1}, {name: pods, priority: 2}]}]"),
}

// TestRuns starts Weir with the arguments that a manifest gives it, under the rights that it gives it, against a real API server. It must read
// everything, and write the status of all of it.
func TestRuns(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "weir")
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/weir").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct{ example, account, workload string }{
		{"sidecar", "weir", "Deployment weir-system/weir"},
		{"fleet", "weir-control", "Deployment weir-system/weir-control"},
		{"production", "weir", "StatefulSet weir-system/weir"},
	} {
		t.Run(c.example, func(t *testing.T) {
			cluster := kubetest.Shared(t)
			ctx := bounded(t)
			install(t, ctx, cluster, c.example)
			for _, document := range served {
				o := parse(t, document)
				if o.GetKind() == "LLMGateway" {
					o.SetName("gateway") // the one that the example of production serves
				}
				keep(t, ctx, cluster, o)
			}
			keep(t, ctx, cluster, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "openai-key"}, StringData: map[string]string{"value": "v"}})
			keep(t, ctx, cluster, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "pool"},
				Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "pool"}, Ports: []corev1.ServicePort{{Port: 8000}}}})

			log := start(t, bin, here(t, args(t, render(t, helm(example(t, c.example)))[0].objects(t), c.workload, "weir")), kubeconfig(t, cluster, c.account))
			for _, document := range served {
				o := parse(t, document)
				if o.GetKind() == "LLMGateway" {
					o.SetName("gateway")
				}
				for _, condition := range []string{"Accepted", "ResolvedRefs"} {
					await(t, ctx, cluster, o, condition, log)
				}
			}
			if strings.Contains(log.String(), "forbidden") {
				t.Errorf("something is forbidden:\n%s", log)
			}
		})
	}
}

// keep creates an object until the test ends.
func keep(t *testing.T, ctx context.Context, c *kubetest.Cluster, o client.Object) {
	t.Helper()
	if err := c.Client.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Client.Delete(context.Background(), o); err != nil {
			t.Error(err)
		}
	})
}

// await waits until a condition of an object is True.
func await(t *testing.T, ctx context.Context, c *kubetest.Cluster, o *unstructured.Unstructured, condition string, log fmt.Stringer) {
	t.Helper()
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		if err := c.Client.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return false, err
		}
		conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, e := range conditions {
			if e := e.(map[string]any); e["type"] == condition && e["status"] == "True" {
				return true, nil
			}
		}
		return false, err
	})
	if err != nil {
		t.Fatalf("%s is not %s (%v); its status is %v; Weir says\n%s", key(o), condition, err, o.Object["status"], log)
	}
}

// here are arguments with the files and ports of this test instead of those of a container.
func here(t *testing.T, args []string) []string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir") // short: there will be sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, content := range certificate(t) {
		write(t, filepath.Join(dir, name), content)
	}
	write(t, filepath.Join(dir, "token"), []byte("0123456789abcdef0123456789"))
	write(t, filepath.Join(dir, "key"), []byte("0123456789abcdef0123456789abcdef"))
	out := make([]string, len(args))
	for i, a := range args {
		flag, value, _ := strings.Cut(a, "=")
		switch {
		case strings.HasPrefix(value, ":"): // an address
			a = fmt.Sprintf("%s=127.0.0.1:%d", flag, freeport.Take(t))
		case strings.HasPrefix(value, "/etc/weir/"):
			a = flag + "=" + filepath.Join(dir, filepath.Base(value))
		case strings.HasPrefix(value, "/"):
			a = flag + "=" + filepath.Join(dir, "d", filepath.Base(filepath.Dir(value)))
		}
		out[i] = a
	}
	return out
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate is one that signs itself, as the files of a Secret.
func certificate(t *testing.T) map[string][]byte {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return map[string][]byte{"tls.crt": chain, "ca.crt": chain, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
}

// kubeconfig makes one by which a program is a service account.
func kubeconfig(t *testing.T, c *kubetest.Cluster, account string) string {
	t.Helper()
	as := impersonate(c, account)
	config := clientcmdapi.Config{
		CurrentContext: "test",
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: as.Host, CertificateAuthority: as.CAFile, CertificateAuthorityData: as.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"test": {
			ClientCertificate: as.CertFile, ClientCertificateData: as.CertData, ClientKey: as.KeyFile, ClientKeyData: as.KeyData, Token: as.BearerToken,
			Impersonate: as.Impersonate.UserName, ImpersonateGroups: as.Impersonate.Groups,
		}},
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs a program until the test ends, and returns what it says.
func start(t *testing.T, bin string, args []string, kubeconfig string) fmt.Stringer {
	t.Helper()
	log := &output{}
	cmd := exec.Command(bin, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig, "POD_NAME=weir-0", "POD_NAMESPACE=" + namespace}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("weir %s: %v\n%s", strings.Join(args, " "), err, log)
		}
	})
	return log
}

// output is what a program has written so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write takes what is written.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String returns all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
