package kubetest

import (
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Program is a kube-apiserver and an etcd in the hands of a program that is no test, such as a benchmark.
type Program struct {
	// Config is an administrator's.
	Config *rest.Config
	// Client is the administrator's, as that of Cluster.
	Client client.WithWatch

	servers *servers
}

// Open starts both servers and installs the CustomResourceDefinitions of deploy/crds. Whoever calls it closes what it returns; the servers
// end with the program in any case, on Linux even if it is killed.
func Open() (*Program, error) {
	s, err := launch()
	if err != nil {
		return nil, err
	}
	c, err := openCluster(s)
	if err == nil {
		ctx, cancel := c.context()
		err = c.installCRDs(ctx)
		cancel()
	}
	if err != nil {
		s.stop(false)
		return nil, err
	}
	return &Program{Config: c.Config, Client: c.Client, servers: s}, nil
}

// PIDs are the numbers of the two processes.
func (p *Program) PIDs() (apiserver, etcd int) {
	p.servers.mu.Lock()
	defer p.servers.mu.Unlock()
	return p.servers.apiserver.cmd.Process.Pid, p.servers.etcd.cmd.Process.Pid
}

// Kubeconfig writes a file with the administrator's configuration.
func (p *Program) Kubeconfig(path string) error { return writeKubeconfig(path, p.Config) }

// Close ends the servers and removes what they have kept. With keep the logs stay, and it says where.
func (p *Program) Close(keep bool) (logs string) { return p.servers.stop(keep) }
