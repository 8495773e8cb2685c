package usage

import (
	"maps"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// otherName is the label of every name that has none of its own.
const otherName = "other"

const (
	// maxNames that a kind of label has, beside otherName, unless RequestMetricsOptions says otherwise.
	maxNames = 200
	// maxNameBytes of a name that may be a label.
	maxNameBytes = 256
)

// labels bounds how many values a label has, whatever requests bring: names get a place when they are first seen, as long as there are
// places. Names that the configuration does not know may take half of them, or none.
type labels struct {
	max, strangers int                // places, and those of them that strangers may take
	overflow       prometheus.Counter // requests whose name found no place

	now atomic.Pointer[placed] // so that requests share no lock
	mu  sync.Mutex             // of who changes it
}

// placed is never changed.
type placed struct {
	declared  map[string]bool // names that the configuration knows
	places    map[string]bool // taken; true for those of names that it knew
	strangers int             // of places
}

func newLabels(max, strangers int, overflow prometheus.Counter) *labels {
	l := &labels{max: max, strangers: strangers, overflow: overflow}
	l.now.Store(&placed{})
	return l
}

// of is the label of a name. No name has none.
func (l *labels) of(name string) string {
	if name == "" {
		return ""
	}
	p := l.now.Load()
	if _, ok := p.places[name]; ok {
		return name
	}
	if !p.declared[name] && l.strangers == 0 {
		return otherName // that is what it is for
	}
	if !l.room(p, name) || !l.take(name) {
		l.overflow.Inc()
		return otherName
	}
	return name
}

// room says whether there is a place for a name.
func (l *labels) room(p *placed, name string) bool {
	return len(p.places) < l.max && (p.declared[name] || p.strangers < l.strangers) && len(name) <= maxNameBytes && utf8.ValidString(name)
}

// take gives a name a place.
func (l *labels) take(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now.Load()
	if _, ok := p.places[name]; ok {
		return true
	}
	if !l.room(p, name) {
		return false
	}
	next := &placed{declared: p.declared, places: make(map[string]bool, len(p.places)+1), strangers: p.strangers}
	maps.Copy(next.places, p.places)
	next.places[name] = p.declared[name]
	if !p.declared[name] {
		next.strangers++
	}
	l.now.Store(next)
	return true
}

// use takes the names of a new configuration. It returns those that have lost their place because the configuration knows them no
// more: their series should go.
func (l *labels) use(declared map[string]bool) (gone []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now.Load()
	next := &placed{declared: declared, places: make(map[string]bool, len(p.places))}
	for name, known := range p.places {
		switch {
		case declared[name]:
			next.places[name] = true
		case known:
			gone = append(gone, name)
		default:
			next.places[name] = false
			next.strangers++
		}
	}
	l.now.Store(next)
	return gone
}
