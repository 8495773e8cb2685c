package kubetest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Snapshot is a copy of etcd's data.
type Snapshot struct{ dir string }

// StopAPIServer kills the API server: connections break, and new ones are refused until StartAPIServer. etcd goes on.
func (c *Cluster) StopAPIServer() {
	c.t.Helper()
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	if c.servers.apiserver == nil {
		c.t.Fatal("the API server is stopped already")
	}
	c.servers.apiserver.kill()
	c.servers.apiserver = nil
}

// StartAPIServer starts the API server again, on the same port, with the same certificates and the data that etcd has, and
// returns when it is ready.
func (c *Cluster) StartAPIServer() {
	c.t.Helper()
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	if c.servers.apiserver != nil {
		c.t.Fatal("the API server is running already")
	}
	c.check(c.servers.startAPIServer())
}

// Snapshot copies etcd's data, which stands still for that moment. Nobody is disconnected.
func (c *Cluster) Snapshot() *Snapshot {
	c.t.Helper()
	c.servers.mu.Lock()
	defer c.servers.mu.Unlock()
	s := &Snapshot{dir: filepath.Join(c.t.TempDir(), "etcd")}
	c.check(c.servers.etcd.freeze())
	defer c.servers.etcd.thaw()
	// As a killed etcd would leave it, which etcd recovers from; and all that was written is in the files that others see.
	c.check(os.CopyFS(s.dir, os.DirFS(c.servers.dataDir())))
	return s
}

// Restore puts a snapshot's data in the place of etcd's, as one restores a backup: both servers stop for it. Resource versions
// go back to those of the snapshot.
func (c *Cluster) Restore(s *Snapshot) {
	c.t.Helper()
	c.replaceData(func(dir string) error { return os.CopyFS(dir, os.DirFS(s.dir)) })
	c.servers.mu.Lock()
	c.servers.wiped = false
	c.servers.mu.Unlock()
}

// WipeEtcd empties etcd, as when a cluster is lost and made anew: both servers stop for it. Afterwards nothing is left, not even the
// CustomResourceDefinitions (InstallCRDs).
func (c *Cluster) WipeEtcd() {
	c.t.Helper()
	c.replaceData(func(string) error { return nil })
	c.servers.mu.Lock()
	c.servers.wiped = true
	c.servers.mu.Unlock()
}

// replaceData stops both servers, lets fill make etcd's folder, and starts them; the API server only if it ran.
func (c *Cluster) replaceData(fill func(dir string) error) {
	c.t.Helper()
	s := c.servers
	s.mu.Lock()
	defer s.mu.Unlock()
	running := s.apiserver != nil
	s.apiserver.kill()
	s.apiserver = nil
	s.etcd.kill()
	c.check(os.RemoveAll(s.dataDir()))
	c.check(fill(s.dataDir()))
	c.check(s.startEtcd())
	if running {
		c.check(s.startAPIServer())
	}
}

func (c *Cluster) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(fmt.Errorf("the test's cluster: %w", err))
	}
}
