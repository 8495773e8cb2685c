package authz

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// door is one listening address. Servers follow each other behind it when certificates or authorities change, so that no
// connection is refused in between: the new one takes what comes from now on, and the old one asks its clients to
// come again.
type door struct {
	listener net.Listener
	log      *slog.Logger
	conns    chan net.Conn
	failed   chan<- struct{} // told when the listener breaks
	shut     chan struct{}
	once     sync.Once
	broken   atomic.Bool
	conf     Config             // of the newest server; only changed by serve
	gate     *gate              // of the newest server; nil before the first
	leave    context.CancelFunc // ends that server
	servers  sync.WaitGroup
}

func newDoor(l net.Listener, log *slog.Logger, failed chan<- struct{}) *door {
	d := &door{listener: l, log: log, conns: make(chan net.Conn), failed: failed, shut: make(chan struct{}), leave: func() {}}
	go d.accept()
	return d
}

func (d *door) address() string { return d.listener.Addr().String() }

// alive is false once the listener has broken by itself.
func (d *door) alive() bool { return !d.broken.Load() }

// acceptPause is how long accepting rests when the system has no descriptors or buffers left.
const acceptPause = 50 * time.Millisecond

func (d *door) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			// The method is deprecated for its meaning being vague; of Accept it is what is wanted, and what net/http asks.
			passing, ok := err.(interface{ Temporary() bool })
			if !ok || !passing.Temporary() {
				d.broke(err)
				return
			}
			select {
			case <-time.After(acceptPause):
				continue
			case <-d.shut:
				return
			}
		}
		select {
		case d.conns <- c:
		case <-d.shut:
			c.Close()
			return
		}
	}
}

// broke notes that the listener has ended, unless it was closed.
func (d *door) broke(err error) {
	select {
	case <-d.shut:
		return
	default:
	}
	d.log.Error("external authorization's listener broke; it is opened again", "address", d.address(), "error", err)
	d.broken.Store(true)
	select {
	case d.failed <- struct{}{}:
	default:
	}
}

// serve lets a server take the connections from now on, in the place of the one before.
func (d *door) serve(s *Server, conf Config, t *tls.Config) {
	ctx, cancel := context.WithCancel(context.Background())
	g := newGate(d)
	d.servers.Go(func() {
		defer cancel()
		if err := s.Serve(ctx, g, t); err != nil {
			d.log.Error("a server of external authorization ended", "error", err)
		}
	})
	if d.gate != nil {
		d.gate.retire()
		d.leave()
	}
	d.conf, d.gate, d.leave = conf, g, cancel
}

// close stops listening, and tells the server to end.
func (d *door) close() {
	d.once.Do(func() {
		close(d.shut)
		d.listener.Close()
		d.leave()
	})
}

// wait waits for the servers to end, after close.
func (d *door) wait() { d.servers.Wait() }

// gate is the part of a door that one server sees: closing it leaves the door open.
type gate struct {
	door *door
	shut chan struct{}
	once sync.Once

	mu      sync.Mutex
	retired chan struct{}  // closed: the next server takes what comes
	arrived sync.WaitGroup // connections that the server has been given and not begun with
}

func newGate(d *door) *gate {
	return &gate{door: d, shut: make(chan struct{}), retired: make(chan struct{})}
}

// retire takes no connection any more, and waits until the server has begun with those that it was given: a gRPC server
// that is told to end drops what it has not begun with.
func (g *gate) retire() {
	g.mu.Lock()
	close(g.retired)
	g.mu.Unlock()
	g.arrived.Wait()
}

func (g *gate) isRetired() bool {
	select {
	case <-g.retired:
		return true
	default:
		return false
	}
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		select {
		case c := <-g.door.conns:
			g.mu.Lock()
			if late := g.isRetired(); !late {
				g.arrived.Add(1)
				g.mu.Unlock()
				return &arrival{Conn: c, begun: sync.OnceFunc(g.arrived.Done)}, nil
			}
			g.mu.Unlock()
			select { // it is for the next
			case g.door.conns <- c:
			case <-g.door.shut:
				c.Close()
			}
		case <-g.retired:
			<-g.shut
			return nil, net.ErrClosed
		case <-g.shut:
			return nil, net.ErrClosed
		}
	}
}

func (g *gate) Close() error {
	g.once.Do(func() { close(g.shut) })
	return nil
}

func (g *gate) Addr() net.Addr { return g.door.listener.Addr() }

// arrival is a connection that tells when the server begins with it.
type arrival struct {
	net.Conn
	begun func()
}

func (a *arrival) SetDeadline(t time.Time) error { // what a gRPC server does first
	a.begun()
	return a.Conn.SetDeadline(t)
}

func (a *arrival) Read(b []byte) (int, error) {
	a.begun()
	return a.Conn.Read(b)
}

func (a *arrival) Write(b []byte) (int, error) {
	a.begun()
	return a.Conn.Write(b)
}

func (a *arrival) Close() error {
	a.begun()
	return a.Conn.Close()
}
