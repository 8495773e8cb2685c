package serve

import (
	"fmt"
	"iter"
	"maps"
	"sync"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/weir-dev/weir/internal/cow"
)

// mailbox holds the overlay that came last.
type mailbox struct {
	arrived chan struct{} // has an element when there is one that was not fetched
	mu      sync.Mutex
	full    bool
	last    *Overlay
}

// Steer serves an overlay at once: also while a version is on its way, which neither waits for it nor fails with it. It
// never blocks; of several the last counts. An Envoy that refuses it gets the last one back that it has taken all of, or
// what the versions say themselves.
func (p *Publisher) Steer(o *Overlay) {
	p.mail.mu.Lock()
	defer p.mail.mu.Unlock()
	p.mail.last, p.mail.full = o, true
	select {
	case p.mail.arrived <- struct{}{}:
	default: // the one before has not been fetched
	}
}

// fetch takes out what came last, if that was not done already.
func (m *mailbox) fetch() (o *Overlay, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok = m.last, m.full
	m.last, m.full = nil, false
	return o, ok
}

// steering is what the goroutine of Run knows of overlays.
type steering struct {
	turn    uint64  // counts those that were used
	now     *steer  // in use; nil where none is
	good    *steer  // the last that Envoy has taken all of; nil where there is none
	settled uint64  // turn of the last that the connected Envoy has taken all of
	held    *steer  // waits until the pending version has been settled
	again   resends // what was refused beside steered resources, and has to be sent once more
	// under has, by type and name, the versions of what overlays have changed that Envoy has not taken all of yet. No version
	// waits for that.
	under map[string]map[string]string
	// strange says that the Envoy has come with whatever it had before: then all of it counts.
	strange bool
	bad     map[string]string
}

// steer is one overlay in use.
type steer struct {
	*Overlay
	turn uint64
	told bool // Options.Steered knows that Envoy has it
}

// resends counts by type and name how often a resource was sent once more, with the version that it had then.
type resends map[string]map[string]resend

type resend struct {
	version string
	times   int
}

// overlay is the one in use.
func (s *steering) overlay() *Overlay {
	if s.now == nil {
		return nil
	}
	return s.now.Overlay
}

// label labels a snapshot that the overlay in use has a part in.
func (s *steering) label(serial uint64) label {
	l := label{serial: serial}
	if s.now != nil {
		l.turn = s.now.turn
	}
	return l
}

// doubtful says whether what Envoy refuses of a response may be the fault of an overlay: of one that it had not taken before.
func (s *steering) doubtful(c *change) bool { return c.turn > s.settled }

// fetch takes the overlay that has come.
func (p *Publisher) fetch() {
	o, ok := p.mail.fetch()
	if !ok {
		return
	}
	if o == nil {
		o = &Overlay{}
	}
	p.steering.turn++
	next := &steer{Overlay: o, turn: p.steering.turn}
	if p.pending != nil && p.pending.alone {
		p.steering.held = next
		return
	}
	p.steering.held = nil
	p.use(next)
}

// use serves what is served with another overlay, or none.
func (p *Publisher) use(s *steer) {
	p.steering.now = s
	if p.served == nil {
		return // with the first version
	}
	p.serial++
	next, err := p.compose(p.served.union)
	if err != nil {
		p.opts.Log.Error("what steering says cannot be sent to Envoy", "error", err)
		return
	}
	p.set(next)
}

// compose makes what is to be served of a union and the overlay in use, which is given up where that is impossible.
func (p *Publisher) compose(u *union) (*served, error) {
	next, err := compose(u, p.steering.overlay(), p.served, p.steering.label(p.serial))
	if s := p.steering.now; err != nil && s != nil {
		p.opts.Log.Error("what steering says cannot be said to Envoy", "error", err)
		p.steered(s, err.Error())
		p.steering.now, p.steering.good = nil, nil
		return compose(u, nil, p.served, p.steering.label(p.serial))
	}
	return next, err
}

// set gives Envoy what is to be served.
func (p *Publisher) set(s *served) {
	p.follow(s)
	p.cache.set(&offer{state: s.state, marked: p.steering.again.mark(s.hashes), labels: s.labels})
	p.served = s
	p.given.Store(s) // only now: who sees it knows that the server does
	for key, reason := range s.bad {
		if p.steering.bad[key] != reason {
			p.opts.Log.Warn("weights of a route cannot be used; it keeps its own", "route", key, "reason", reason)
		}
	}
	p.steering.bad = s.bad
}

// follow notes what steering changes when this is served next.
func (p *Publisher) follow(next *served) {
	if p.served == nil || p.stream == 0 {
		p.steering.under = nil
		return
	}
	for _, typeURL := range steerable {
		before, under := p.served.hashes[typeURL], p.steering.under[typeURL]
		if next.union != p.served.union {
			maps.DeleteFunc(under, func(name, _ string) bool {
				return next.union.hashes[typeURL].Get(name) != p.served.union.hashes[typeURL].Get(name)
			})
		}
		for name := range cow.Diff(before, next.hashes[typeURL]) {
			was, version := before.Get(name), next.hashes[typeURL].Get(name)
			if version == "" {
				continue // it has gone
			}
			if _, known := under[name]; !known && next.union == p.served.union {
				if under == nil {
					under = map[string]string{}
				}
				under[name] = was
			}
			// Back to what Envoy has, while it is not known whether what it was meanwhile is on its way: then it is sent
			// in any case, so that Envoy's answer tells.
			// What is not known to be there at all may be that, too.
			if v := p.views[typeURL]; v != nil && (v.has.is[name] == version || v.has.is[name] == "") && v.believed.is[name] != was {
				p.steering.again.add(typeURL, name, version)
				v.retract(name)
			}
		}
		if p.steering.under == nil {
			p.steering.under = map[string]map[string]string{}
		}
		p.steering.under[typeURL] = under
	}
	if p.steering.now == nil || p.steering.now.turn <= p.steering.settled {
		p.steering.under = nil // all that overlays have changed is taken back
	}
}

// add notes that a resource is to be sent once more.
func (r resends) add(typeURL, name, version string) {
	marks := r[typeURL]
	if marks == nil {
		marks = map[string]resend{}
		r[typeURL] = marks
	}
	m := marks[name]
	if m.version != version {
		m = resend{version: version}
	}
	m.times++
	marks[name] = m
}

// mark gives what is to be sent once more another version, as the server is to see it: it sends what it takes for changed. The
// marks of what has changed really are dropped.
func (r resends) mark(hashes map[string]cow.Map[string]) map[string]cow.Map[string] {
	out := make(map[string]cow.Map[string], len(hashes))
	for typeURL, versions := range hashes {
		marked := versions.Edit()
		for name, mark := range r[typeURL] {
			if versions.Get(name) != mark.version {
				delete(r[typeURL], name)
				continue
			}
			marked.Set(name, fmt.Sprintf("%s, sent %d times more", mark.version, mark.times))
		}
		out[typeURL] = marked.Map()
	}
	return out
}

// resend has those of versions by name that are wanted still sent once more, where Envoy need not have them: what a refused
// response brought, which was not at fault or need not have been, or what something else may be on its way after.
func (p *Publisher) resend(typeURL string, versions iter.Seq2[string, string]) {
	v := p.views[typeURL]
	again := false
	for name, version := range versions {
		if p.served.hashes[typeURL].Get(name) != version {
			continue // something else is on its way
		}
		p.steering.again.add(typeURL, name, version)
		v.retract(name)
		again = true
	}
	if again {
		p.set(p.served)
	}
}

// refusedSteered settles the refusal of a response that an overlay has a part in which Envoy has not taken before, and says
// whether there is something to settle.
func (p *Publisher) refusedSteered(typeURL, reason string, c *change) bool {
	current, steered := true, false // it brought what is wanted still; the overlay speaks of some of it
	for name, version := range c.versions {
		current = current && p.served.hashes[typeURL].Get(name) == version
		steered = steered || p.speaks(typeURL, name)
	}
	switch {
	case p.pending != nil:
		// Which of the two it was shows when the version is alone.
		p.suspend()
	case !current: // the next overlay is on its way, and is judged by itself
	case steered:
		p.refuseOverlay(typeURL, reason)
	default:
		return false
	}
	p.resend(typeURL, maps.All(c.versions))
	return true
}

// speaks says whether the overlay in use speaks of a resource.
func (p *Publisher) speaks(typeURL, name string) bool {
	switch typeURL {
	case resourcev3.EndpointType:
		_, ok := p.served.steered[name]
		return ok
	case resourcev3.ScopedRouteType:
		return p.served.spoken[name]
	}
	return false
}

// suspend takes the overlay in use away until the pending version has been settled.
func (p *Publisher) suspend() {
	p.pending.alone = true
	if p.steering.now == nil || p.steering.now.turn <= p.steering.settled {
		return
	}
	if p.steering.held == nil {
		p.steering.held = p.steering.now
	}
	p.use(p.fallback())
}

// refuseOverlay gives up the overlay in use.
func (p *Publisher) refuseOverlay(typeURL, reason string) {
	s := p.steering.now
	p.opts.Log.Warn("Envoy refuses what steering says; what was served before is served again", "type", shortType(typeURL), "reason", reason)
	p.use(p.fallback())
	p.steered(s, shortType(typeURL)+": "+reason)
}

// fallback is what is served instead of the overlay in use: the last good one, or nothing where that is it.
func (p *Publisher) fallback() *steer {
	if p.steering.now == p.steering.good {
		p.steering.good = nil
	}
	return p.steering.good
}

// steered tells what became of an overlay.
func (p *Publisher) steered(s *steer, nack string) {
	if p.opts.Steered != nil {
		p.opts.Steered(s.Serial, p.opts.Now(), nack)
	}
}

// settleOverlay finds out whether Envoy has taken all that the overlay in use says of what it asks for.
func (p *Publisher) settleOverlay() {
	s := p.steering.now
	if s == nil || s.turn <= p.steering.settled || p.stream == 0 || p.now.Serving == "" {
		return
	}
	taken := true
	for _, typeURL := range steerable {
		v := p.views[typeURL]
		for name, counts := range p.steeredNames(typeURL) {
			version := p.served.hashes[typeURL].Get(name)
			switch {
			case v == nil || v.byName && !v.names[name]:
				taken = taken && typeURL == resourcev3.EndpointType && !p.willAsk(name)
			case v.settled(name, version):
			case !v.refused(name, version):
				taken = false
			case counts:
				p.refusal(typeURL, v.reason)
				return
			}
		}
	}
	if !taken {
		return
	}
	p.steering.settled, p.steering.good, p.steering.under, p.steering.strange = s.turn, s, nil, false
	if !s.told {
		s.told = true
		p.steered(s, "")
	}
}

// steeredNames yields the names of a type on which it hangs whether Envoy has taken the overlay in use, and whether they are
// the overlay's work. What else an Envoy has that has just come counts as well.
func (p *Publisher) steeredNames(typeURL string) iter.Seq2[string, bool] {
	return func(yield func(string, bool) bool) {
		under := p.steering.under[typeURL]
		if p.steering.strange {
			for name := range p.served.hashes[typeURL].Names() {
				_, was := under[name]
				if !yield(name, was || p.speaks(typeURL, name)) {
					return
				}
			}
			return
		}
		for name := range under {
			if p.served.hashes[typeURL].Has(name) && !yield(name, true) {
				return
			}
		}
		spoken := maps.Keys(p.served.spoken)
		if typeURL == resourcev3.EndpointType {
			spoken = maps.Keys(p.served.steered)
		}
		for name := range spoken {
			if _, done := under[name]; !done && !yield(name, true) {
				return
			}
		}
	}
}

// refusal settles that Envoy has refused a part of the overlay in use.
func (p *Publisher) refusal(typeURL, reason string) {
	if p.pending != nil {
		p.suspend()
		return
	}
	p.refuseOverlay(typeURL, reason)
}

// willAsk says whether Envoy will ask for the endpoints of a cluster: it has the cluster, or a live version does.
func (p *Publisher) willAsk(cluster string) bool {
	if v := p.views[resourcev3.ClusterType]; v != nil && v.has.is[cluster] != "" {
		return true
	}
	return p.union.endpoints(cluster) != nil
}

// resume uses the overlay that had to wait for a version.
func (p *Publisher) resume() {
	if s := p.steering.held; s != nil && (p.pending == nil || !p.pending.alone) {
		p.steering.held = nil
		p.steering.turn++
		s.turn = p.steering.turn // what was refused under the old one says nothing of this one
		p.use(s)
	}
}

// onlySteered says whether all that Envoy has still to answer for of a type is the work of overlays, which no version needs
// to wait for.
func (p *Publisher) onlySteered(typeURL string, v *view) bool {
	if p.steering.now == nil || p.steering.now.turn <= p.steering.settled {
		return false
	}
	for _, c := range v.open {
		if c.serial <= p.base || len(c.removed) > 0 {
			return false
		}
		for name := range c.versions {
			if !p.speaks(typeURL, name) {
				return false
			}
		}
	}
	v.believed.aim(p.served.hashes[typeURL])
	for name, version := range v.wanting(v.believed, nil) {
		if version != "" && !p.speaks(typeURL, name) {
			return false
		}
	}
	return len(v.believed.is) <= p.served.hashes[typeURL].Len()
}
