package serve

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/internal/cow"
	"github.com/weir-dev/weir/xds/compile"
)

// A version waits until Envoy has all of its resources of the awaited types, and those of the asked types that
// Envoy has asked for: it asks for endpoints and secrets by name, once a cluster or a listener needs them, and keeps
// that one warming until it has them.
var (
	awaited = []string{resourcev3.ClusterType, resourcev3.ListenerType, resourcev3.ScopedRouteType}
	asked   = []string{resourcev3.EndpointType, resourcev3.SecretType}
	// kinds are all types, in the order in which they are sent, and steerable those that overlays change.
	kinds     = []string{resourcev3.ClusterType, resourcev3.EndpointType, resourcev3.ListenerType, resourcev3.ScopedRouteType, resourcev3.SecretType}
	steerable = []string{resourcev3.EndpointType, resourcev3.ScopedRouteType}
)

const (
	// maxRetain bounds how long an old version's resources stay in Envoy, whatever its timeouts say.
	maxRetain = 15 * time.Minute
	// sweepEvery is how often old versions are looked at.
	sweepEvery = 15 * time.Second
	// warmLimit is how long a version waits for its clusters and listeners to be warm. A cluster whose name does
	// not resolve must not keep all the others from being served.
	warmLimit = 5 * time.Second
	// warmPoll is how often Envoy is asked meanwhile.
	warmPoll = 20 * time.Millisecond
)

// Options of a Publisher.
type Options struct {
	// NodeID of the Envoy that is served.
	NodeID string
	// Activate makes ext_proc decide by a version. It is called once for each version, after Envoy has
	// acknowledged it, by one goroutine.
	Activate func(*compile.Version)
	// Warming tells how many clusters and listeners Envoy does not use yet, because endpoints or secrets
	// have not arrived; nil does not wait for them.
	Warming func(context.Context) (int, error)
	// Steered is told, if set, that Envoy has taken all of an overlay that it asks for, and when; or why it has refused a part.
	// It is not called for overlays that the next one came too soon after. It is called by one goroutine and must return soon.
	Steered func(serial uint64, acked time.Time, nack string)
	// Presence is told when Envoy comes and goes.
	Presence Presence
	// Spread is how long Envoy's workers may take to use what its main thread has acknowledged: a turn of their loops. A request that
	// is decided by a route which its worker does not know yet gets 503. It is waited for after Warming.
	Spread time.Duration
	// Refused, if set, is told of each version that Envoy refuses, before it is sent the last good one again: also of the one that is served, where
	// it refuses a part of that late. It is called by one goroutine and must return soon.
	Refused func(Refusal)
	// Changed, if set, is told after each change of State. It is called by one goroutine and must return soon.
	Changed func(State)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Presence are functions that are called when Envoy comes and goes; each may be nil. They are called by the goroutine of
// Envoy's stream, one at a time, and must return soon.
type Presence struct {
	// Came is called when an Envoy has connected, before it is sent anything. A fresh one has no clusters yet: it has
	// just been started. Another has been served before, by this process or the one before it.
	Came func(fresh bool)
	// Went is called when the stream of the Envoy that connected last has ended.
	Went func()
}

// Refusal is what Envoy says of a version that it refuses.
type Refusal struct {
	Version string
	TypeURL string
	// Names are those of the resources that it speaks of: all that came with them.
	Names []string
	// Reason is as Envoy put it, after the type.
	Reason string
}

// State is what a Publisher is doing, for status pages.
type State struct {
	Connected bool
	Serving   string    // version that requests are decided by; "" before the first
	Since     time.Time // of Serving
	Pending   string    // version that Envoy has been sent and has not acknowledged
	Rejected  string    // the last version that Envoy refused a part of, unless a later one is served; Serving itself if it did so late
	Reason    string    // why, as Envoy put it
	Versions  int       // served so far
	Rejects   int       // refused so far
	Retained  int       // versions whose resources Envoy has at the moment
}

// Publisher serves versions to one Envoy. Make before break: a new version's resources are added to those
// of the versions that requests may still be using; when Envoy has acknowledged them, ext_proc switches; later
// the old ones are taken away. When Envoy refuses a version, both keep the last good one.
type Publisher struct {
	opts   Options
	cache  *cache
	server serverv3.Server
	events chan any
	mail   mailbox
	state  atomic.Pointer[State]
	line   line
	given  atomic.Pointer[served] // what is served, for the goroutines of streams

	// What follows belongs to the goroutine of Run.
	serial   uint64
	base     uint64     // serial of the last snapshot that had other versions than the one before
	live     []retained // oldest first; the last is the one that is served
	union    *union     // of live
	old      leftovers  // what only older ones than the served one have
	pending  *attempt
	queued   *compile.Version
	steering steering
	stream   int64            // of the connected Envoy; 0 when there is none
	views    map[string]*view // of that stream, by type; of types that Envoy has asked for
	served   *served          // nil before the first version
	warm     bool             // all that Envoy was sent before the pending version was warm when that was asked last
	now      State
}

// retained is a version whose resources Envoy has.
type retained struct {
	id      string
	retain  time.Duration
	maxBody uint32
	until   time.Time // zero for the one that is served
}

// attempt is a version on its way to Envoy.
type attempt struct {
	version *compile.Version
	union   *union                            // of the live versions and this one
	serial  uint64                            // of the snapshot that it came with
	want    map[string]cow.Map[string]        // versions by type and name of what Envoy has to take, if not later ones
	own     map[string]func(name string) bool // of an asked type, what the version has itself
	alone   bool                              // overlays wait: Envoy has refused something that could be theirs or its
	warmed  chan bool                         // gets one value when clusters and listeners are warm, or false when that was waited for long enough; nil before they are waited for
}

// newAttempt is a version that was sent with older ones. It waits for the endpoints and secrets that it has itself: what
// only older versions have does not hold it up.
func newAttempt(v *compile.Version, u *union, serial uint64, sent map[string]cow.Map[string]) *attempt {
	return &attempt{version: v, union: u, serial: serial, want: sent, own: map[string]func(string) bool{
		resourcev3.EndpointType: isIn(v.Endpoints), resourcev3.SecretType: isIn(v.Secrets),
	}}
}

// NewPublisher makes a Publisher; it serves nothing before Run.
func NewPublisher(opts Options) *Publisher {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	p := &Publisher{
		opts: opts, events: make(chan any, 4096), line: line{presence: opts.Presence}, cache: newCache(), union: nothing(), old: leftovers{},
	}
	p.mail.arrived, p.steering.again = make(chan struct{}, 1), resends{}
	p.server = serverv3.NewServer(context.Background(), p.cache, p.callbacks())
	p.state.Store(&State{})
	return p
}

// Register adds the delta ADS service to s.
func (p *Publisher) Register(s *grpc.Server) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, p.server)
}

// Publish serves a version as soon as the one before has been settled. Of several that wait, the last counts.
func (p *Publisher) Publish(v *compile.Version) { p.events <- publishEvent{v} }

// State returns what the publisher is doing.
func (p *Publisher) State() State { return *p.state.Load() }

// Run serves until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		var warmed chan bool
		if p.pending != nil {
			warmed = p.pending.warmed
		}
		select {
		case <-ctx.Done():
			return
		case e := <-p.events:
			p.handle(e)
		case <-p.mail.arrived:
			p.fetch()
		case all := <-warmed:
			p.handleWaiting() // what became warm may have asked for more meanwhile, or refused it
			if p.pending != nil && p.pending.warmed == warmed {
				p.pending.warmed, p.warm = nil, all
				if p.settle() {
					p.activate()
				}
			}
		case <-sweep.C:
			p.sweep()
		}
		p.advance(ctx)
		p.publishState()
	}
}

// handleWaiting handles the events that have come already.
func (p *Publisher) handleWaiting() {
	for {
		select {
		case e := <-p.events:
			p.handle(e)
		default:
			return
		}
	}
}

func (p *Publisher) handle(e any) {
	switch e := e.(type) {
	case publishEvent:
		p.queued = e.version
	case openEvent:
		p.stream = e.stream
		p.views = map[string]*view{}
		p.steering.settled, p.steering.under, p.steering.strange = 0, nil, true
		p.now.Connected = true
		p.coolDown()
	case closeEvent:
		if e.stream == p.stream {
			p.stream = 0
			p.views = nil
			p.now.Connected = false
			p.coolDown()
		}
	case sentEvent:
		if v := p.views[e.typeURL]; v != nil && e.stream == p.stream {
			e.change.scoped = p.views[resourcev3.ScopedRouteType] != nil
			v.sent(e.nonce, e.change)
		}
	case requestEvent:
		p.request(e)
	}
}

// coolDown makes the pending version wait anew for everything to be warm: it is another Envoy's.
func (p *Publisher) coolDown() {
	p.warm = false
	if p.pending != nil {
		p.pending.warmed = nil
	}
}

// request notes what Envoy asks for, takes and refuses.
func (p *Publisher) request(e requestEvent) {
	if e.refusal != "" {
		e.refusal = p.blame(e)
		p.opts.Log.Error("Envoy refused a configuration", "type", shortType(e.typeURL), "reason", e.refusal)
	}
	if e.stream != p.stream {
		return
	}
	v := p.views[e.typeURL]
	if v == nil {
		v = newView(e.initial, !slices.Contains(awaited, e.typeURL))
		p.views[e.typeURL] = v
		if e.served != p.served {
			// The server may have sent by now what was served before: what Envoy has said that it has need not be what it has.
			p.resend(e.typeURL, maps.All(e.initial))
		}
	}
	orphaned := e.typeURL == resourcev3.ListenerType && e.refusal == "" && v.open[e.nonce] != nil && v.open[e.nonce].scoped && v.replaces(v.open[e.nonce])
	answered := v.answered(e.nonce, e.refusal)
	if orphaned {
		// With the last listener Envoy may have forgotten all scopes. It goes on as if it had asked for them, and does not ask again: the
		// new listener waits until it is sent them.
		p.resend(resourcev3.ScopedRouteType, p.served.hashes[resourcev3.ScopedRouteType].All())
	}
	v.ask(e.wanted)
	v.forget(e.forgotten)
	if e.refusal != "" && answered != nil {
		p.refused(e.typeURL, e.refusal, answered)
	}
}

// maxBlamed is how many scopes are named where one of them is refused and Envoy does not say which.
const maxBlamed = 3

// blame is the reason of a refusal, with the scopes, which are rules, that it may be about: Envoy names none.
func (p *Publisher) blame(e requestEvent) string {
	v := p.views[e.typeURL]
	if e.typeURL != resourcev3.ScopedRouteType || e.stream != p.stream || v == nil || v.open[e.nonce] == nil {
		return e.refusal
	}
	names := slices.Sorted(maps.Keys(v.open[e.nonce].versions))
	switch n := len(names); {
	case n == 0:
		return e.refusal
	case n == 1:
		return fmt.Sprintf("rule %s: %s", names[0], e.refusal)
	case n <= maxBlamed:
		return fmt.Sprintf("one of the rules %s: %s", strings.Join(names, ", "), e.refusal)
	default:
		return fmt.Sprintf("one of %d rules, %s and others: %s", n, strings.Join(names[:maxBlamed], ", "), e.refusal)
	}
}

// refused settles what a refusal means. One of what was sent with the pending version ends that version at once, unless it
// may be an overlay's fault. One of something older comes too late to keep it from being served, and is told: unless it
// is that of a version that was given up already.
func (p *Publisher) refused(typeURL, reason string, c *change) {
	switch {
	case p.steering.doubtful(c) && p.refusedSteered(typeURL, reason, c):
	case p.pending != nil && c.serial >= p.pending.serial:
		p.reject(typeURL, reason, slices.Sorted(maps.Keys(c.versions)))
	case p.now.Rejected == "" && p.now.Serving != "":
		p.note(p.now.Serving, typeURL, reason, slices.Sorted(maps.Keys(c.versions)))
	}
}

// settle finds out whether Envoy has taken the pending version, and gives the version up when it has refused a part.
func (p *Publisher) settle() (taken bool) {
	if p.stream == 0 {
		return false
	}
	taken = true
	for _, t := range slices.Concat(awaited, asked) {
		v, want, own := p.views[t], p.pending.want[t], p.pending.own[t]
		if v == nil && slices.Contains(asked, t) { // nothing of it is asked for
			continue
		}
		switch {
		case v.taken(want, own, p.pending.serial, p.steering.under[t]):
		case v.idle(p.served.hashes[t], own):
			p.reject(t, v.reason, v.lacking(want, own))
			return false
		default:
			taken = false
		}
	}
	return taken
}

// reject gives up the pending version and sends Envoy the last good one again, or nothing where there is none: what it
// has refused is only sent once more after it was taken away.
func (p *Publisher) reject(typeURL, reason string, names []string) {
	p.note(p.pending.version.ID, typeURL, reason, names)
	p.pending, p.warm = nil, false // what it has changed changes back
	p.send(p.union)
}

// note counts and tells a refusal.
func (p *Publisher) note(version, typeURL, reason string, names []string) {
	p.now.Rejects++
	p.now.Rejected, p.now.Reason = version, fmt.Sprintf("%s: %s", shortType(typeURL), reason)
	if p.opts.Refused != nil {
		p.opts.Refused(Refusal{Version: version, TypeURL: typeURL, Names: names, Reason: p.now.Reason})
	}
}

// recovering says whether Envoy has still to answer for what it was sent before, overlays apart.
func (p *Publisher) recovering() bool {
	if p.served == nil {
		return false
	}
	for t, v := range p.views {
		if !v.idle(p.served.hashes[t], nil) && !p.onlySteered(t, v) {
			return true
		}
	}
	return false
}

// advance settles the pending version, and starts the queued one when nothing is in its way.
func (p *Publisher) advance(ctx context.Context) {
	p.resume()
	p.settleOverlay()
	if p.pending != nil && p.pending.warmed == nil && p.settle() {
		p.pending.warmed = make(chan bool, 1)
		go p.awaitWarm(ctx, p.pending.warmed, p.warm && !p.pending.union.warms(p.union))
	}
	if p.queued == nil || p.stream != 0 && (p.pending != nil || p.recovering()) {
		return
	}
	v := p.queued
	p.queued = nil
	if len(p.live) > 0 && p.live[len(p.live)-1].id == v.ID {
		if p.pending != nil { // Envoy is away; it must not get the one that is given up
			p.pending = nil
			p.send(p.union)
		}
		p.now.Rejected, p.now.Reason = "", ""
		return
	}
	u, err := p.union.with(v, max(v.MaxBody, p.maxBody()))
	if err != nil {
		p.opts.Log.Error("a configuration cannot be sent to Envoy", "error", err)
		p.now.Rejects++
		p.now.Rejected, p.now.Reason = v.ID, "it cannot be sent: "+err.Error()
		if p.opts.Refused != nil {
			p.opts.Refused(Refusal{Version: v.ID, Reason: p.now.Reason})
		}
		return
	}
	if p.send(u) {
		p.pending = newAttempt(v, u, p.serial, p.served.hashes)
		p.advance(ctx)
	}
}

// awaitWarm says on done when every cluster and listener is in use, or after warmLimit that some are not. Where they are known to be, Envoy is not
// asked: its main thread writes out the names of many statistics for an answer, which takes it 16 ms where there are a thousand clusters.
func (p *Publisher) awaitWarm(ctx context.Context, done chan<- bool, known bool) {
	if p.opts.Warming == nil {
		done <- true
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	tick := time.NewTicker(warmPoll)
	defer tick.Stop()
	for {
		n, err := 0, error(nil)
		if !known {
			n, err = p.opts.Warming(ctx)
		}
		if err == nil && n == 0 {
			select {
			case <-time.After(p.opts.Spread):
			case <-ctx.Done():
			}
			done <- true
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.opts.Log.Warn("some clusters or listeners are not ready yet; serving the others", "warming", n, "error", err)
			done <- false
			return
		}
	}
}

// activate makes the pending version the one that is served.
func (p *Publisher) activate() {
	a := p.pending
	p.pending = nil
	if n := len(p.live); n > 0 {
		last := &p.live[n-1]
		last.until = p.opts.Now().Add(min(last.retain, maxRetain))
	}
	p.old.leave(p.union.newest, a.version, slices.MaxFunc(append(p.live, retained{}), func(a, b retained) int { return a.until.Compare(b.until) }).until)
	p.union = a.union
	p.live = slices.DeleteFunc(p.live, func(r retained) bool { return r.id == a.version.ID })
	p.live = append(p.live, retained{id: a.version.ID, retain: a.version.Retain, maxBody: a.version.MaxBody})
	p.now.Versions++
	p.now.Serving, p.now.Since = a.version.ID, p.opts.Now()
	p.now.Rejected, p.now.Reason = "", ""
	p.opts.Activate(a.version)
}

// sweep takes away what no request can need any more.
func (p *Publisher) sweep() {
	if p.pending != nil {
		return
	}
	n := len(p.live)
	now := p.opts.Now()
	p.live = slices.DeleteFunc(p.live, func(r retained) bool { return !r.until.IsZero() && now.After(r.until) })
	gone := p.old.due(now)
	if len(p.live) == n && len(gone) == 0 {
		return
	}
	u, err := p.union.without(gone, p.maxBody())
	if err != nil {
		p.opts.Log.Error("a configuration cannot be sent to Envoy", "error", err)
		return
	}
	p.union = u
	p.send(u)
}

// maxBody is the largest of the live versions'.
func (p *Publisher) maxBody() uint32 {
	out := uint32(0)
	for _, r := range p.live {
		out = max(out, r.maxBody)
	}
	return out
}

// send gives Envoy a union under a new serial, with what the overlay in use makes of it.
func (p *Publisher) send(u *union) bool {
	p.serial++
	next, err := p.compose(u)
	if err != nil {
		p.opts.Log.Error("a configuration cannot be sent to Envoy", "error", err)
		return false
	}
	p.set(next)
	p.base = p.serial
	return true
}

func (p *Publisher) publishState() {
	s := p.now
	s.Retained = len(p.live)
	if p.pending != nil {
		s.Pending = p.pending.version.ID
	}
	if before := p.state.Swap(&s); p.opts.Changed != nil && (before == nil || *before != s) {
		p.opts.Changed(s)
	}
}

// shortType is "Cluster" for the type URL of a cluster.
func shortType(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }
