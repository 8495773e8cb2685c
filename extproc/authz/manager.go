package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ManagerOptions of a Manager.
type ManagerOptions struct {
	Server *Server
	Log    *slog.Logger // nil says nothing
	// Retry gives a channel that fires when a listener that failed is to be tried again; nil is every 5 seconds.
	Retry func() <-chan time.Time
	// Listen opens a listener; nil is TCP.
	Listen func(address string) (net.Listener, error)
}

// Manager keeps external authorization served as the newest configuration has it. Nothing that goes wrong here stops the gateway:
// it is told by Apply and State, and tried again. It is safe for concurrent use.
type Manager struct {
	opts ManagerOptions

	mu     sync.Mutex
	want   *Config
	open   *door // nil: nowhere
	err    error // why want is not what is served
	closed bool
	stop   context.CancelFunc // of the retries
	ctx    context.Context
	wake   chan struct{}
	work   sync.WaitGroup
}

// NewManager makes a Manager that serves nowhere yet.
func NewManager(o ManagerOptions) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Retry == nil {
		o.Retry = func() <-chan time.Time { return time.After(5 * time.Second) }
	}
	if o.Listen == nil {
		o.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	m := &Manager{opts: o, wake: make(chan struct{}, 1)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.work.Go(m.retry)
	return m
}

// Apply serves as c says from now on; nil serves nowhere. Connections stay where only certificates change, until the other Envoy
// is asked to open new ones, which it is at once. What was served before stays when c cannot be: that is the error.
func (m *Manager) Apply(c *Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("external authorization has been shut down")
	}
	if c != nil {
		own := *c
		c = &own
	}
	m.want = c
	m.settle()
	return m.err
}

// settle brings what is served to what is wanted. It holds mu.
func (m *Manager) settle() {
	m.err = nil
	if m.want == nil {
		m.shut()
		return
	}
	if m.open != nil && m.open.alive() && m.open.conf.equal(m.want) {
		return
	}
	conf, err := m.want.TLS()
	if err != nil {
		m.err = fmt.Errorf("external authorization: %w", err)
		return
	}
	if m.open != nil && m.open.alive() && m.open.conf.hostPort() == m.want.hostPort() {
		m.open.serve(m.opts.Server, *m.want, conf)
		m.opts.Log.Info("external authorization has new certificates", "address", m.want.hostPort())
		return
	}
	if m.open != nil && !m.open.alive() {
		m.shut() // its port may be the one that is wanted
	}
	l, err := m.opts.Listen(m.want.hostPort())
	if err != nil && m.open != nil && m.open.conf.Port == m.want.Port {
		m.shut() // the same port of another address, and one of them is every address
		l, err = m.opts.Listen(m.want.hostPort())
	}
	if err != nil {
		m.err = fmt.Errorf("external authorization cannot listen on %s: %w; free the port or choose another one", m.want.hostPort(), err)
		select {
		case m.wake <- struct{}{}:
		default:
		}
		return
	}
	m.shut()
	m.open = newDoor(l, m.opts.Log, m.wake)
	m.open.serve(m.opts.Server, *m.want, conf)
	m.opts.Log.Info("external authorization is served", "address", l.Addr().String(), "tls", conf != nil, "clientCertificates", len(m.want.ClientCA) > 0)
	if addr, err := netip.ParseAddr(m.want.Address); conf == nil && err == nil && !addr.IsLoopback() {
		m.opts.Log.Warn("external authorization is served without TLS on an address that others reach: credentials can be read on their way", "address", m.want.hostPort())
	}
}

func (m *Manager) shut() {
	if m.open != nil {
		m.open.close()
		m.open = nil
	}
}

// retry tries again what failed, until Close.
func (m *Manager) retry() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
		}
		select {
		case <-m.ctx.Done():
			return
		case <-m.opts.Retry():
		}
		m.mu.Lock()
		before := m.err
		if !m.closed {
			m.settle()
		}
		if m.err != nil && (before == nil || m.err.Error() != before.Error()) {
			m.opts.Log.Error("external authorization is not served as configured", "error", m.err)
		}
		m.mu.Unlock()
	}
}

// State is what is served now.
type State struct {
	// Address that is served; "" where none is.
	Address string
	// TLS, and whether clients must show a certificate.
	TLS, ClientCertificates bool
	// Err is why this is not what the configuration says; nil where it is.
	Err error
}

// State tells what is served now.
func (m *Manager) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := State{Err: m.err}
	switch {
	case m.open == nil:
	case !m.open.alive() && s.Err == nil:
		s.Err = errors.New("external authorization's listener broke; it is opened again in a moment")
	case m.open.alive():
		s.Address, s.TLS, s.ClientCertificates = m.open.address(), len(m.open.conf.Certificate) > 0, len(m.open.conf.ClientCA) > 0
	}
	return s
}

// Close stops serving, for good, and waits until checks under way have ended, for 5 seconds at most.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed, m.want = true, nil
	open := m.open
	m.shut()
	m.mu.Unlock()
	m.stop()
	m.work.Wait()
	if open != nil {
		open.wait()
	}
}
