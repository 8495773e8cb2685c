package fleet

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/xds/load/signal"
)

const (
	// maxReplicas bounds how many control planes a gateway gets signals of.
	maxReplicas = 64
	// maxSignals bounds a message of signals, in bytes: all sources of tens of thousands of endpoints.
	maxSignals = 64 << 20
	// mostSignalWait is the most that is waited before a control plane is asked for signals again: it may be back, and nobody else reads its part.
	mostSignalWait = 4 * time.Second
	// window is for how long the quickest message says how far two clocks are apart, at least. Clocks drift: a thousandth of a second in
	// ten seconds at the worst.
	window = 30 * time.Second
)

// wanted are the Backends whose signals are wanted. The zero value is ready.
type wanted struct {
	mu       sync.Mutex
	backends []string
	known    bool
	changed  chan struct{}
}

// get returns them, and what is closed when others are wanted; nil before they are known.
func (w *wanted) get() (backends []string, known bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.backends, w.known, w.changed
}

func (w *wanted) set(backends []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known && slices.Equal(w.backends, backends) {
		return
	}
	w.backends, w.known = slices.Clone(backends), true
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Want says of which Backends Signals are wanted, by sorted IDs.
func (c *Client) Want(backends []string) { c.wanted.set(backends) }

// Signals gets what control planes read of endpoints, until ctx is done, and hands it to take, which must not wait and is called by several
// goroutines. One of the addresses is asked, and those that it says share the work with it. It does nothing before Want was called.
func (c *Client) Signals(ctx context.Context, take func([]signal.Shared)) {
	f := &signalFollower{c: c, take: take, others: map[string]context.CancelFunc{}}
	defer f.running.Wait()
	_, known, changed := c.wanted.get()
	for !known {
		select {
		case <-changed:
			_, known, changed = c.wanted.get()
		case <-ctx.Done():
			return
		}
	}
	at := min(int(c.opts.Random()*float64(len(c.opts.Addresses))), len(c.opts.Addresses)-1)
	f.keep(ctx, func() (string, string, func(Replicas)) {
		address := c.opts.Addresses[at]
		at = (at + 1) % len(c.opts.Addresses)
		return address, c.opts.ServerName, func(r Replicas) { f.follow(ctx, r, address) }
	})
}

// signalFollower follows the control planes that share the work.
type signalFollower struct {
	c       *Client
	take    func([]signal.Shared)
	running sync.WaitGroup

	mu     sync.Mutex
	others map[string]context.CancelFunc // by address
}

// follow makes these the replicas that are followed, besides the one that said so, which is at an address that the gateway was given.
func (f *signalFollower) follow(ctx context.Context, r Replicas, address string) {
	name := f.c.opts.ServerName
	if name == "" {
		// They have the name that their address stands for, and were named by one who has it.
		name, _, _ = net.SplitHostPort(address)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	next := map[string]bool{}
	for _, other := range r.Others[:min(len(r.Others), maxReplicas)] {
		next[other] = true
	}
	for other, stop := range f.others {
		if !next[other] {
			stop()
			delete(f.others, other)
		}
	}
	for other := range next {
		if f.others[other] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		f.others[other] = stop
		f.running.Go(func() {
			f.keep(ctx, func() (string, string, func(Replicas)) { return other, name, func(Replicas) {} })
		})
	}
}

// keep keeps a stream to one control plane after the other, until ctx is done.
func (f *signalFollower) keep(ctx context.Context, next func() (address, name string, replicas func(Replicas))) {
	wait, said := leastWait, map[string]string{} // by address
	for {
		address, name, replicas := next()
		worked, err := f.c.listen(ctx, address, name, f.take, replicas)
		if ctx.Err() != nil {
			return
		}
		if reason := err.Error(); worked || reason != said[address] {
			f.c.opts.Log.Info("no signals from the control plane", "address", address, "error", reason)
			said[address] = reason
		}
		if worked {
			wait = leastWait
		}
		timer := f.c.opts.Clock.NewTimer(wait/2 + time.Duration(f.c.opts.Random()*float64(wait/2)))
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, mostSignalWait)
	}
}

// listen takes signals of one control plane until that ends. worked says whether any have come.
func (c *Client) listen(ctx context.Context, address, name string, take func([]signal.Shared), replicas func(Replicas)) (worked bool, err error) {
	conn, err := c.conn(address, name)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &signalsDesc.Streams[0], "/"+signalsService+"/"+signalsMethod,
		// There is little to compress in numbers that change.
		grpc.UseCompressor(encoding.Identity), grpc.MaxCallRecvMsgSize(maxSignals))
	if err != nil {
		return false, words(err)
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asking.Go(func() { c.ask(ctx, stream) })

	known := signalSources{epoch: c.opts.Clock.Now(), now: c.opts.Clock.Now}
	for {
		var m wrapperspb.BytesValue
		if err := stream.RecvMsg(&m); err != nil {
			return worked, words(err)
		}
		f, err := decodeFrame(m.GetValue())
		if err != nil {
			return worked, err
		}
		if !worked {
			worked = true
			c.opts.Log.Debug("signals come from a control plane", "address", address)
		}
		if f.replicas != nil {
			replicas(*f.replicas)
		}
		if signals := known.take(f); len(signals) > 0 {
			take(signals)
		}
	}
}

// ask says what is wanted, at first and whenever that changes.
func (c *Client) ask(ctx context.Context, stream grpc.ClientStream) {
	for {
		backends, _, changed := c.wanted.get()
		if err := stream.SendMsg(&wrapperspb.BytesValue{Value: encodeWanted(backends)}); err != nil {
			// RecvMsg tells why, but for one that is too large.
			if !errors.Is(err, io.EOF) {
				c.opts.Log.Warn("the control plane cannot be asked for signals", "error", words(err))
			}
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// signalSources are what numbers on one stream stand for, and when the control plane's times were.
type signalSources struct {
	epoch   time.Time // what the times here count from
	now     func() time.Time
	sources map[uint64]signalSource
	apart   [2]time.Duration // how much more the clock here shows, at least: in this window, and in the last one
	begun   time.Time        // when this window has; zero: there is none
}

// take translates a message.
func (k *signalSources) take(f *signalFrame) []signal.Shared {
	now := k.now()
	k.compare(now, now.Sub(k.epoch)-f.at)
	if f.reset || k.sources == nil {
		k.sources = map[uint64]signalSource{}
	}
	for _, s := range f.sources {
		k.sources[s.number] = s
	}
	out := make([]signal.Shared, 0, len(f.readings))
	for i := range f.readings {
		r := &f.readings[i]
		s, ok := k.sources[r.source]
		if !ok {
			continue
		}
		r.Backend, r.Endpoint, r.Source, r.Of = s.backend, s.endpoint, s.index, s.of
		r.At = k.epoch.Add(r.at + min(k.apart[0], k.apart[1]))
		if r.At.After(now) {
			r.At = now
		}
		r.Sample.At = r.At
		out = append(out, r.Shared)
	}
	return out
}

// compare takes in how far the clocks were apart by one message: the time that it took is in it, so the least counts. Of messages that waited
// somewhere the readings are as old as they are.
func (k *signalSources) compare(now time.Time, apart time.Duration) {
	switch {
	case k.begun.IsZero():
		k.apart, k.begun = [2]time.Duration{apart, apart}, now
	case now.Sub(k.begun) > window:
		k.apart, k.begun = [2]time.Duration{apart, k.apart[0]}, now
	default:
		k.apart[0] = min(k.apart[0], apart)
	}
}
