package kubetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weir-dev/weir/test/freeport"
	"github.com/weir-dev/weir/test/kubetest/assets"
)

// servers are one etcd and one kube-apiserver, with the folder of their data, keys and logs.
type servers struct {
	dir      *folder
	programs assets.Servers
	pki      *pki
	admin    *rest.Config
	release  []func() // of the ports

	etcdPort, peerPort, port int

	mu        sync.Mutex // over what follows; held by each start and stop
	etcd      *process
	apiserver *process
	wiped     bool // etcd has been emptied: the CustomResourceDefinitions are gone
}

// quiet gives the client library a log. It has one for all of a process, and complains, with a stack, while there is none.
var quiet = sync.OnceFunc(func() { log.SetLogger(logr.Discard()) })

// launch starts both servers on ports of their own.
func launch() (*servers, error) {
	quiet()
	programs, err := assets.Find()
	if err != nil {
		return nil, err
	}
	dir, err := newFolder()
	if err != nil {
		return nil, err
	}
	s := &servers{dir: dir, programs: programs}
	if err := s.launch(); err != nil {
		s.stop(false)
		return nil, err
	}
	return s, nil
}

// launchTries is how often other ports are tried: a program that locks none may take one.
const launchTries = 3

func (s *servers) launch() (err error) {
	if s.pki, err = newPKI(s.dir.path); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range launchTries {
		s.releasePorts()
		for _, port := range []*int{&s.etcdPort, &s.peerPort, &s.port} {
			p, release, err := freeport.Hold()
			if err != nil {
				return err
			}
			*port, s.release = p, append(s.release, release)
		}
		if s.admin, err = s.config("kubetest-admin", "system:masters"); err != nil {
			return err
		}
		if err = s.startEtcd(); err == nil {
			err = s.startAPIServer()
		}
		if !errors.Is(err, errEnded) {
			return err
		}
		s.etcd.kill()
		if err := os.RemoveAll(s.dataDir()); err != nil {
			return err
		}
	}
	return err
}

func (s *servers) dataDir() string { return filepath.Join(s.dir.path, "etcd") }

func (s *servers) startEtcd() (err error) {
	client, peer := loopback("http", s.etcdPort), loopback("http", s.peerPort)
	s.etcd, err = startProcess(s.programs.Etcd, filepath.Join(s.dir.path, "etcd.log"),
		"--data-dir="+s.dataDir(),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		// What a process has written outlives the process; that it outlives the machine as well is of no use here.
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
	if err != nil {
		return err
	}
	return s.etcd.await(func() error { return ask(http.DefaultClient, client+"/readyz") })
}

func (s *servers) startAPIServer() (err error) {
	file := func(name string) string { return filepath.Join(s.dir.path, name) }
	s.apiserver, err = startProcess(s.programs.APIServer, file("kube-apiserver.log"),
		"--etcd-servers="+loopback("http", s.etcdPort),
		"--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(s.port),
		// Without it the server looks for the address of the default route, and ends where there is none.
		"--advertise-address=127.0.0.1",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--client-ca-file="+file(caFile),
		"--tls-cert-file="+file(serverCertFile), "--tls-private-key-file="+file(serverKeyFile),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+file(accountKeyFile), "--service-account-signing-key-file="+file(accountKeyFile),
		"--authorization-mode=RBAC",
		// No controller makes namespaces' default ServiceAccounts, without which this one refuses every Pod.
		"--disable-admission-plugins=ServiceAccount",
		"--allow-privileged=true",
		"--profiling=false",
	)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(s.admin)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return s.apiserver.await(func() error { return ask(client, s.admin.Host+"/readyz") })
}

// config is the configuration of a client with a certificate.
func (s *servers) config(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := s.pki.client(user, groups...)
	if err != nil {
		return nil, err
	}
	c := s.anonymous()
	c.CertData, c.KeyData = cert, key
	return c, nil
}

// anonymous is the configuration of a client without credentials.
func (s *servers) anonymous() *rest.Config {
	return &rest.Config{
		Host:            loopback("https", s.port),
		TLSClientConfig: rest.TLSClientConfig{CAData: s.pki.caPEM},
		QPS:             -1, // a test does not wait for its own client
		WarningHandler:  rest.NoWarnings{},
	}
}

// stop ends both servers, the API server first, which would otherwise complain, and gives all back. The logs stay if keep.
func (s *servers) stop(keep bool) (logs string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiserver.kill()
	s.etcd.kill()
	s.apiserver, s.etcd = nil, nil
	s.releasePorts()
	if keep {
		logs = s.dir.keep("*.log")
	}
	s.dir.remove()
	return logs
}

func (s *servers) releasePorts() {
	for _, release := range s.release {
		release()
	}
	s.release = nil
}

// askTimeout bounds one question whether a server is ready.
const askTimeout = 5 * time.Second

// ask expects 200 of a URL.
func ask(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

func loopback(scheme string, port int) string {
	return scheme + "://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
