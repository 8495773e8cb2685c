package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/weir-dev/weir/xds/source"
)

const (
	// cacheAfter is how long a client that has just started waits for the control plane before it uses its cache file.
	cacheAfter = 2 * time.Second
	// cacheEvery is how often the cache file is written at most, and the certificate looked at.
	cacheEvery = 30 * time.Second
	// The least and the most that is waited before all addresses are tried again. Half of it is random, so that a fleet does not come back at once.
	leastWait = 250 * time.Millisecond
	mostWait  = 15 * time.Second
	// maxOpen is how many sets that were handed on may be told about later.
	maxOpen = 16
)

// ClientOptions of a Client.
type ClientOptions struct {
	// Addresses of the control plane, HOST:PORT. A client uses one of them, and another when that is away.
	Addresses []string
	TLS       Files
	// ServerName is the DNS name or the SPIFFE ID that the control plane's certificate has to have; "" is the host of its address.
	ServerName string
	Node       Node
	// CacheFile keeps the last set that Envoy served, sealed, for a start without the control plane; "" keeps none.
	CacheFile string
	Log       *slog.Logger
	Registry  prometheus.Registerer // takes the metric; nil for none
	Clock     clock.Clock           // nil is the system's
	// Random returns numbers from 0 to 1, which spread what many clients would do at the same time; nil is math/rand.
	Random func() float64
	// Dial opens connections; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Client gets objects from a control plane. It is a source.Source: who uses it tells it which objects Envoy serves, by Serving and Rejected, and
// the control plane hears of it. It is safe for concurrent use.
type Client struct {
	opts         ClientOptions
	certificates *certificates
	handOn       chan struct{} // a set may be due for fn
	toCache      chan struct{} // another set is served
	wanted       wanted

	mu       sync.Mutex
	health   source.Health
	latest   *set // nil before the first
	ready    bool // latest may be handed on
	open     []*set
	served   *set
	refused  []Refused // of served
	rejected *source.Objects
	reason   string // of rejected
}

var _ source.Source = (*Client)(nil)

// NewClient makes a client. It fails where the TLS files cannot be used; the control plane and the cache file need not be there.
func NewClient(opts ClientOptions) (*Client, error) {
	if len(opts.Addresses) == 0 {
		return nil, errors.New("a client needs the address of a control plane: HOST:PORT")
	}
	for _, a := range opts.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%q is no address of a control plane: write HOST:PORT", a)
		}
	}
	if _, err := nodeOf(opts.Node.message()); err != nil {
		return nil, err
	}
	opts.Node.Scope = opts.Node.Scope.normal()
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = clock.RealClock{}
	}
	if opts.Random == nil {
		opts.Random = rand.Float64
	}
	certificates, err := newCertificates(opts.TLS, opts.Log)
	if err != nil {
		return nil, fmt.Errorf("TLS towards the control plane: %w", err)
	}
	c := &Client{
		opts: opts, certificates: certificates, handOn: make(chan struct{}, 1), toCache: make(chan struct{}, 1),
		health: source.Health{Since: opts.Clock.Now(), Reason: "the control plane has not answered yet"},
	}
	registerClient(opts.Registry, func() bool { return c.Health().Connected })
	return c, nil
}

// String implements source.Source.
func (c *Client) String() string { return "control plane " + strings.Join(c.opts.Addresses, ", ") }

// Health implements source.Source.
func (c *Client) Health() source.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.health
}

// Watch implements source.Source. It is called once.
func (c *Client) Watch(ctx context.Context, fn func(*source.Objects, []source.Problem)) {
	cached, written := c.readCache()
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { c.connect(ctx) })
	running.Go(func() { c.keepCache(ctx, cached) })

	patience := c.opts.Clock.NewTimer(cacheAfter)
	defer patience.Stop()
	var handed *source.Objects
	for {
		select {
		case <-ctx.Done():
			return
		case <-patience.C():
			c.useCache(written)
		case <-c.handOn:
		}
		if s := c.next(handed); s != nil && ctx.Err() == nil {
			handed = s.objs
			fn(s.objs, s.problems)
		}
	}
}

// next returns the set that is to be handed on, if there is one that was not.
func (c *Client) next(handed *source.Objects) *set {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready || c.latest.objs == handed {
		return nil
	}
	c.remember(c.latest)
	return c.latest
}

// remember keeps a set that was handed on, until it is known what became of it.
func (c *Client) remember(s *set) {
	c.open = append(c.open, s)
	if len(c.open) > maxOpen {
		c.open = slices.Delete(c.open, 0, 1)
	}
}

// Serving says that Envoy serves what objs, which Watch has handed on, came to: it has taken it, or nothing in it was new to it.
func (c *Client) Serving(objs *source.Objects) { c.settle(objs, "", nil) }

// Partly says that Envoy serves what objs came to without some objects, which it refuses.
func (c *Client) Partly(objs *source.Objects, refused []Refused) {
	if len(refused) > maxRefused {
		return // that it was refused has been told
	}
	c.settle(objs, "", refused)
}

// Rejected says that Envoy, or a step before it, refuses what objs came to, and why. What was served before still is.
func (c *Client) Rejected(objs *source.Objects, reason string) {
	c.settle(objs, cmp.Or(reason, "no reason was given"), nil)
}

// settle takes what became of a set. Of the ones handed on before it nothing more will be told.
func (c *Client) settle(objs *source.Objects, reason string, refused []Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.open, func(s *set) bool { return s.objs == objs })
	if i < 0 {
		return
	}
	s := c.open[i]
	c.open = slices.Delete(c.open, 0, i)
	if reason == "" {
		c.served, c.refused = s, refused
		if c.rejected == objs {
			c.rejected, c.reason = nil, ""
		}
		wake(c.toCache)
	} else {
		c.rejected, c.reason = objs, reason
	}
	s.session.answer(s.nonce, cmp.Or(reason, summary(refused)), refused)
}

// received takes what a response of the control plane has made of the latest set. Only one session is there at a time, and nothing else calls it.
func (c *Client) received(r *discoveryv3.DeltaDiscoveryResponse, s *session) {
	c.mu.Lock()
	before := c.latest
	c.mu.Unlock()
	next := before.with(r)
	next.session = s

	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.ready = next, true
	if !c.health.Connected {
		c.health = source.Health{Connected: true, Since: c.opts.Clock.Now()}
	}
	wake(c.handOn)
	if before == nil || before.objs != next.objs {
		return
	}
	// The same objects under another number. What was told of them holds.
	for i := range c.open {
		if c.open[i].objs == next.objs {
			c.open[i] = next
		}
	}
	if c.served != nil && c.served.objs == next.objs {
		s.answer(next.nonce, summary(c.refused), c.refused)
	}
	if c.rejected == next.objs {
		s.answer(next.nonce, c.reason, nil)
	}
}

// useCache hands on what was in the cache file, where the control plane has not answered.
func (c *Client) useCache(written time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready || c.latest == nil {
		return
	}
	c.ready = true
	c.opts.Log.Warn("the control plane does not answer; going on with the objects of the cache file", "file", c.opts.CacheFile, "written", written)
}

// lost notes that there is no connection.
func (c *Client) lost(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health.Connected {
		c.health.Connected, c.health.Since = false, c.opts.Clock.Now()
	}
	c.health.Reason = reason
}

// connect keeps a session with one of the addresses until ctx is done.
func (c *Client) connect(ctx context.Context) {
	// Each client begins somewhere else.
	at := min(int(c.opts.Random()*float64(len(c.opts.Addresses))), len(c.opts.Addresses)-1)
	wait := leastWait
	for failed := 0; ; {
		address := c.opts.Addresses[at]
		worked, err := c.converse(ctx, address)
		if ctx.Err() != nil {
			return
		}
		reason := fmt.Sprintf("%s: %s", address, err)
		c.lost(reason)
		c.opts.Log.Warn("no connection to the control plane", "error", reason)
		at = (at + 1) % len(c.opts.Addresses)
		if worked {
			failed, wait = 0, leastWait
		}
		if failed++; !worked && failed%len(c.opts.Addresses) != 0 {
			continue // another address may do
		}
		timer := c.opts.Clock.NewTimer(wait/2 + time.Duration(c.opts.Random()*float64(wait/2)))
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, mostWait)
	}
}

// readCache makes the set of the cache file the latest one. It returns its objects, and when it was written.
func (c *Client) readCache() (*source.Objects, time.Time) {
	if c.opts.CacheFile == "" {
		return nil, time.Time{}
	}
	s, written, err := readCache(c.opts.CacheFile, c.opts.Node.Scope, c.certificates.get().cert.PrivateKey)
	if err != nil {
		c.opts.Log.Warn("the cache file of the control plane's objects cannot be used and is ignored", "file", c.opts.CacheFile, "error", err)
	}
	if s == nil {
		return nil, time.Time{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest = s
	return s.objs, written
}

// keepCache writes the set that Envoy serves, when it is another one than what is in the file or the private key has changed. Without a cache file
// it only looks at the certificate, so that each that comes is noticed.
func (c *Client) keepCache(ctx context.Context, written *source.Objects) {
	key := c.certificates.get().cert.Leaf.Raw // the certificate whose private key sealed the file
	write := func() {
		c.mu.Lock()
		s := c.served
		c.mu.Unlock()
		p := c.certificates.get()
		if c.opts.CacheFile == "" || s == nil || s.objs == written && slices.Equal(key, p.cert.Leaf.Raw) {
			return
		}
		content, err := seal(s, c.opts.Node.Scope, p.cert.PrivateKey)
		if err == nil {
			err = writeCache(c.opts.CacheFile, content)
		}
		if err != nil {
			c.opts.Log.Warn("the cache file of the control plane's objects cannot be written; without it Weir cannot start while the control plane is away", "file", c.opts.CacheFile, "error", err)
			return
		}
		written, key = s.objs, p.cert.Leaf.Raw
	}
	keepCurrent(ctx, c.opts.Clock, c.toCache, write)
}

// keepCurrent calls write when there are news, but at most once in cacheEvery, at each end of that time, and when ctx ends.
func keepCurrent(ctx context.Context, c clock.Clock, news <-chan struct{}, write func()) {
	defer write()
	due := news // nil when it has just been written
	for {
		timer := c.NewTimer(cacheEvery)
		select {
		case <-due:
			write()
			due = nil
		case <-timer.C():
			write()
			due = news
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
