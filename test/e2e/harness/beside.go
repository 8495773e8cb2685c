package harness

import (
	"os"
	"os/exec"
	"path/filepath"
)

// SocketDir is what weir and the Envoy beside it share.
func (g *Gateway) SocketDir() string { return filepath.Join(g.runtime, "s") }

// StartEnvoy starts the Envoy beside weir, which need not run.
func (g *Gateway) StartEnvoy() {
	g.t.Helper()
	if g.beside != nil && g.beside.running() {
		g.t.Fatal("Envoy runs: end it first")
	}
	bootstrap, err := exec.Command(Binary(g.t), append([]string{"bootstrap", "--socket-dir", g.SocketDir()}, g.opts.BootstrapArgs...)...).Output()
	if err != nil {
		g.t.Fatalf("weir bootstrap: %v", err)
	}
	// Envoy makes its admin socket, and not the directory for it.
	if err := os.MkdirAll(g.SocketDir(), 0o700); err != nil {
		g.t.Fatal(err)
	}
	file := filepath.Join(g.runtime, "envoy.json")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		g.t.Fatal(err)
	}
	cmd := exec.Command(EnvoyBinary(g.t), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error")
	cmd.Stdout, cmd.Stderr = g.logs, g.logs
	if g.beside, err = startProcess(cmd); err != nil {
		g.t.Fatalf("Envoy cannot be started: %v", err)
	}
}

// KillEnvoy kills the Envoy beside weir, if there is one.
func (g *Gateway) KillEnvoy() {
	if g.beside == nil || !g.beside.running() {
		return
	}
	_ = g.beside.cmd.Process.Kill() // it may have ended
	<-g.beside.done
}

// BesidePID is the process id of the Envoy beside weir.
func (g *Gateway) BesidePID() int { return g.beside.pid() }
