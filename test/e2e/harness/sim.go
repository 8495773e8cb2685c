package harness

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/sim"
)

// Sim is a simulated provider on a loopback port of its own, which it keeps when it is stopped and started again.
type Sim struct {
	*sim.Server
	t      testing.TB
	addr   string
	models []string

	mu   sync.Mutex
	stop context.CancelFunc // nil while it is stopped
	done chan error
}

// NewSim starts a simulator. Without a pace in o.Faults it answers at once.
func NewSim(t testing.TB, o sim.Options) *Sim {
	t.Helper()
	if len(o.Models) == 0 {
		o.Models = sim.DefaultModels(o.Dialect)
	}
	o.Faults = Quick(o.Faults)
	srv, err := sim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sim{Server: srv, t: t, models: o.Models}
	if err := s.start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Quick fills the pace of faults with no wait at all where none is given.
func Quick(f sim.Faults) sim.Faults {
	if f.TTFT == 0 {
		f.TTFT = sim.None
	}
	if f.IntervalMin == 0 && f.IntervalMax == 0 {
		f.IntervalMin, f.IntervalMax = sim.None, sim.None
	}
	return f
}

func (s *Sim) start(addr string) error {
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() { done <- s.ListenAndServe(ctx, addr, func(a net.Addr) { ready <- a }) }()
	select {
	case a := <-ready:
		s.addr, s.stop, s.done = a.String(), cancel, done
		return nil
	case err := <-done:
		cancel()
		return err
	}
}

// Address is the simulator's "host:port".
func (s *Sim) Address() string { return s.addr }

// BaseURL is what a Backend of its dialect takes as URL.
func (s *Sim) BaseURL() string { return "http://" + s.addr + basePath(s.Dialect()) }

// Models are the names it serves.
func (s *Sim) Models() []string { return s.models }

// Stop ends the simulator: running answers have two seconds, new connections are refused. Stopping twice is allowed.
func (s *Sim) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == nil {
		return
	}
	s.stop()
	s.stop = nil
	if err := <-s.done; err != nil {
		s.t.Errorf("the simulator did not stop cleanly: %v", err)
	}
}

// Restart starts a stopped simulator on the same port.
func (s *Sim) Restart() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.t.Fatal("the simulator runs: stop it first")
	}
	var err error
	// The port may still be held for an instant by the connections that have just ended.
	if !poll(5*time.Second, func() bool { err = s.start(s.addr); return err == nil }) {
		s.t.Fatal(err)
	}
}

// Configure sets pace, chunking and faults. Without a pace it answers at once.
func (s *Sim) Configure(f sim.Faults) {
	s.t.Helper()
	if err := s.SetFaults(Quick(f)); err != nil {
		s.t.Fatal(err)
	}
}

// Ended is the newest record, once its request has ended: the client may have the last byte before the simulator has noted
// how it went.
func (s *Sim) Ended() sim.Record {
	s.t.Helper()
	WaitFor(s.t, "the simulator's last request to end", func() bool { return s.Last().End != sim.Running })
	return s.Last()
}

// Last is the newest record; the test fails if there is none.
func (s *Sim) Last() sim.Record {
	s.t.Helper()
	all := s.Requests()
	if len(all) == 0 {
		s.t.Fatalf("the %s simulator has received nothing", s.Dialect())
	}
	return all[len(all)-1]
}
