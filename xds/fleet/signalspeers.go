package fleet

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/load/signal"
)

const (
	// peersEvery is how often is looked which replicas there are.
	peersEvery = time.Second
	// peerTimeout bounds one look, at names and at each replica.
	peerTimeout = time.Second
	// peerMisses in a row make a replica one that is gone.
	peerMisses = 2
)

// Owns says whether an endpoint is this replica's to read, by rendezvous hashing over all that share the work: when one comes or goes, only what
// it reads changes hands.
func (r Replicas) Owns(endpoint string) bool {
	if r.Self == "" {
		return true
	}
	own := signal.Fingerprint(r.Self, endpoint)
	for _, other := range r.Others {
		if score := signal.Fingerprint(other, endpoint); score > own || score == own && other > r.Self {
			return false
		}
	}
	return true
}

// PeersOptions say who may share the work.
type PeersOptions struct {
	// Addresses of all replicas, HOST:PORT. A name stands for all addresses that it has: that of a headless Service does.
	Addresses []string
	// Self says which address is this process's.
	Self func(address string) bool
	Log  *slog.Logger
	// Clock is nil for the system's.
	Clock clock.Clock
	// Resolve finds the addresses of a name; nil is DNS.
	Resolve func(ctx context.Context, host string) ([]string, error)
	// Dial opens connections; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// WatchPeers finds out which replicas are alive, and calls fn at first and whenever that changes, until ctx is done. One is alive while it takes
// connections. Where this process is not among them, it shares with nobody.
func WatchPeers(ctx context.Context, o PeersOptions, fn func(Replicas)) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Resolve == nil {
		o.Resolve = net.DefaultResolver.LookupHost
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	w := &peers{opts: o, names: map[string][]string{}, misses: map[string]int{}}
	var last *Replicas
	for {
		now := w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if last == nil || last.Self != now.Self || !slices.Equal(last.Others, now.Others) {
			o.Log.Info("replicas that share reading endpoints", "self", now.Self, "others", now.Others)
			last = &now
			fn(now)
		}
		timer := o.Clock.NewTimer(peersEvery)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// peers is what is known of replicas.
type peers struct {
	opts    PeersOptions
	names   map[string][]string // addresses that names had last
	misses  map[string]int      // in a row, of addresses that were alive
	strange bool                // the log knows that this process is not among them
}

// look finds out who is alive.
func (w *peers) look(ctx context.Context) Replicas {
	var out Replicas
	var others []string
	for _, address := range w.resolve(ctx) {
		if w.opts.Self(address) {
			out.Self = address
		} else {
			others = append(others, address)
		}
	}
	if out.Self == "" {
		if !w.strange {
			w.opts.Log.Warn("this process is not among the replicas that it is to share reading endpoints with: it reads all", "addresses", w.opts.Addresses)
		}
		w.strange = true
		return out
	}
	w.strange = false
	alive := make([]bool, len(others))
	var asking sync.WaitGroup
	for i, address := range others {
		asking.Go(func() { alive[i] = w.answers(ctx, address) })
	}
	asking.Wait()
	misses := map[string]int{}
	for i, address := range others {
		n, known := w.misses[address]
		switch {
		case alive[i]:
			misses[address] = 0
		case known && n+1 < peerMisses:
			misses[address] = n + 1
		default:
			continue
		}
		out.Others = append(out.Others, address)
	}
	w.misses = misses
	return out
}

// resolve returns all addresses, sorted, each once. Of a name that nobody can resolve now it is those that it had.
func (w *peers) resolve(ctx context.Context) (out []string) {
	for _, address := range w.opts.Addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			continue // it was checked
		}
		within, cancel := context.WithTimeout(ctx, peerTimeout)
		found, err := w.opts.Resolve(within, host)
		cancel()
		if err == nil {
			w.names[address] = found
		}
		for _, ip := range w.names[address] {
			out = append(out, net.JoinHostPort(ip, port))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// answers says whether a replica takes a connection. It is sent nothing.
func (w *peers) answers(ctx context.Context, address string) bool {
	within, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	conn, err := w.opts.Dial(within, address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
