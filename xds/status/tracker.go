package status

import (
	"maps"
	"slices"
	"sync"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/source"
)

// remembered is how many configurations a Tracker and a Writer know the objects of.
const remembered = 64

// Tracker knows which objects the last versions were compiled from, to make a Report of what an Envoy or a sidecar says that it serves. It is safe for
// concurrent use.
type Tracker struct {
	mu     sync.Mutex
	naming naming
	sets   map[string]compiled // by the ID of the version, and by the digest of what was compiled
	names  []string            // oldest first
}

// compiled is what is known of a version.
type compiled struct {
	Set
	refused []ObjectRefusal // by the Envoy of this process
}

// NewTracker returns a Tracker that knows no version.
func NewTracker() *Tracker { return &Tracker{sets: map[string]compiled{}} }

// Compiled tells of a version, before it is served. A Result without one is nothing to remember.
func (t *Tracker) Compiled(objs *source.Objects, res accept.Result) {
	if res.Version == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.naming.name(objs, res)
	set := compiled{n.set(), refusedOf(res)}
	for _, name := range []string{res.Version.ID, n.compiled} {
		if _, known := t.sets[name]; known {
			t.names = slices.DeleteFunc(t.names, func(n string) bool { return n == name })
		}
		t.sets[name] = set
		t.names = append(t.names, name)
	}
	for len(t.names) > 2*remembered {
		delete(t.sets, t.names[0])
		t.names = t.names[1:]
	}
}

// Report says how many replicas serve what, by the version's ID or by the digest of the objects that it was compiled from; "" stands for nothing
// yet. Rejected is the same of what their Envoys refused, unless they serve something later.
func (t *Tracker) Report(serving map[string]int, rejected map[string]Refusal, partly ...Partly) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	var r Report
	for _, name := range slices.Sorted(maps.Keys(serving)) {
		if serving[name] > 0 {
			is := t.compiled(name)
			r.serve(is.Set, serving[name])
			r.refuse(is.refused, serving[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rejected)) {
		if refusal := rejected[name]; name != "" && refusal.Replicas > 0 {
			r.Rejected = append(r.Rejected, Rejection{t.compiled(name).Set, refusal.Replicas, plain(refusal.Reason, maxReason)})
		}
	}
	for _, p := range partly {
		if p.Replicas > 0 {
			r.serve(t.compiled(p.Version).without(p.Refused), p.Replicas)
			r.refuse(refusals(p.Refused), p.Replicas)
		}
	}
	return r
}

// compiled is what is known of a version; one that is not known goes by its name, which the leader may know.
func (t *Tracker) compiled(name string) compiled {
	if s, ok := t.sets[name]; ok {
		return s
	}
	return compiled{Set: Set{Digest: name}}
}

// without is the Set without what an Envoy refuses.
func (s compiled) without(refused []Refused) Set {
	except := map[string]Exception{}
	for _, e := range s.Except {
		except[e.key()] = e
	}
	for _, r := range refused {
		if r.Serves != r.Generation {
			e := Exception{r.Object.Kind, r.Object.Namespace, r.Object.Name, r.Serves}
			except[e.key()] = e
		}
	}
	out := Set{Digest: s.Digest}
	for _, key := range slices.Sorted(maps.Keys(except)) {
		out.Except = append(out.Except, except[key])
	}
	return out
}

// serve counts replicas that serve a Set.
func (r *Report) serve(s Set, replicas int) {
	for i := range r.Serving {
		if is := &r.Serving[i]; is.Digest == s.Digest && slices.Equal(is.Except, s.Except) {
			is.Replicas += replicas
			return
		}
	}
	r.Serving = append(r.Serving, Serving{s, replicas})
}

// refuse counts replicas that refuse objects.
func (r *Report) refuse(refused []ObjectRefusal, replicas int) {
next:
	for _, o := range refused {
		o.Replicas = 0
		for i := range r.Refused {
			is := r.Refused[i]
			is.Replicas = 0
			if is == o {
				r.Refused[i].Replicas += replicas
				continue next
			}
		}
		if len(r.Refused) == maxRefused {
			return
		}
		o.Replicas = replicas
		r.Refused = append(r.Refused, o)
	}
}

// refusedOf are the objects of a Result that Envoy refuses.
func refusedOf(res accept.Result) []ObjectRefusal {
	var out []Refused
	for _, e := range res.Envoy {
		out = append(out, Refused{Object: source.RefOf(e.Object), UID: e.Object.GetUID(), Generation: e.Object.GetGeneration(), Reason: e.Reason})
	}
	return refusals(out)
}

func refusals(refused []Refused) []ObjectRefusal {
	var out []ObjectRefusal
	for _, r := range refused {
		out = append(out, ObjectRefusal{
			Kind: r.Object.Kind, Namespace: r.Object.Namespace, Name: r.Object.Name, UID: r.UID, Generation: r.Generation, Reason: plain(r.Reason, maxReason),
		})
	}
	return out
}
