package status

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// leading is a leader whose writes are made by the test.
func leading(now func() time.Time) *leader {
	opts := Options{Now: now}
	opts.defaults()
	return newLeader(&Writer{opts: opts, history: newHistory(), changed: make(chan struct{}, 1), news: news{all: true}})
}

// work writes everything that is queued and that is not to fail.
func (l *leader) work(fails func(source.ObjectRef) bool) (writes int) {
	q, now := l.queue, l.opts.Now()
	for len(q.urgent)+len(q.rest) > 0 {
		some := slices.ContainsFunc(slices.Concat(q.urgent, q.rest), func(ref source.ObjectRef) bool { return q.entry(ref).wanted != nil })
		if !some {
			break // a worker would wait for more
		}
		ref, e, v, _ := q.take(context.Background())
		if fails(ref) {
			q.failed(ref, e, now)
			e.retry = now.Add(5 * time.Second)
			q.unsettled[ref] = e.retry
			continue
		}
		_, next := q.compose(e, v, now)
		q.wrote(ref, e, next)
		writes++
	}
	return writes
}

// told are the statuses as they are written.
func (l *leader) told() map[string]string {
	out := map[string]string{}
	for ref, e := range l.queue.entries {
		out[ref.String()] = "nothing"
		if e.written != nil {
			out[ref.String()] = fmt.Sprint(e.written.uid, e.written.status)
		}
	}
	return out
}

// Whatever happens, a leader that judges what has changed writes what one writes that judges everything each time.
func TestChangesAreEnough(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		some, all := leading(clock), leading(clock)
		var (
			current    = map[string]int64{}
			pointers   = map[string]source.Object{} // what has not changed is the same pointer
			refused    = map[string]accept.Kept{}
			warned     = map[string]string{}
			serves     = map[string]Set{}
			rejects    = map[string]Rejection{}
			objecting  = map[string][]ObjectRefusal{}
			generation int64
			last       Set
			past       []Set
			whole      bool // nothing can be compiled
		)
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		update := func() {
			var read, compiled []source.Object
			res := accept.Result{Refused: map[source.ObjectRef]accept.Kept{}}
			for name, at := range current {
				o := pointers[name]
				if o == nil || o.GetGeneration() != at {
					o = object("Route", name, at)
					pointers[name] = o
				}
				ref := source.RefOf(o)
				read = append(read, o)
				if warned[name] != "" {
					res.Problems = append(res.Problems, source.Problem{Object: ref, Message: warned[name], Severity: source.Warning})
				}
				kept := refused[name]
				if kept != 0 {
					res.Refused[ref] = kept
					res.Problems = append(res.Problems, source.Problem{Object: ref, Message: "bad"})
				}
				switch kept {
				case 0:
					compiled = append(compiled, o)
				case accept.Older:
					compiled = append(compiled, object("Route", name, at-1))
				}
			}
			objs := readingOf(read...)
			if whole {
				res.Problems = append(res.Problems, source.Problem{Message: "no gateway"})
			} else {
				res.Objects = readingOf(compiled...)
				res.Version = &compile.Version{ID: "v-" + res.Objects.Digest()}
				last = setOf(objs, res)
				past = append(past, last)
			}
			some.Update(objs, res)
			all.Update(objs, res)
		}
		for step := range 400 {
			name := names[rng.IntN(len(names))]
			process := fmt.Sprint("p", rng.IntN(3))
			switch rng.IntN(14) {
			case 0, 1, 2:
				generation += 2
				current[name] = generation
				update()
			case 3:
				delete(current, name)
				delete(pointers, name)
				update()
			case 4:
				refused[name] = accept.Kept(rng.IntN(3))
				update()
			case 5:
				warned[name] = []string{"", "odd", "odder"}[rng.IntN(3)]
				update()
			case 6:
				whole = rng.IntN(4) == 0
				update()
			case 7, 8, 9:
				serves[process] = last
				if len(past) > 0 && rng.IntN(4) == 0 { // it goes back, also to what nobody knows any more
					serves[process] = past[max(0, len(past)-1-rng.IntN(8)*rng.IntN(8))]
				}
				delete(rejects, process)
			case 10:
				delete(serves, process)
				delete(objecting, process)
			case 11:
				rejects[process] = Rejection{last, 1, []string{"no", "never"}[rng.IntN(2)]}
			case 12:
				objecting[process] = []ObjectRefusal{{Kind: "Route", Namespace: "ns", Name: name, UID: "uid-" + "r", Generation: current[name], Replicas: 1, Reason: "no"}}
				if o := pointers[name]; o != nil {
					objecting[process][0].UID = o.GetUID()
				}
			case 13:
				if rng.IntN(3) == 0 {
					serves[process] = Set{Digest: "of somebody else"}
				} else {
					now = now.Add(time.Minute)
				}
			}
			reports := Reports{}
			for p, s := range serves {
				r := Report{Serving: []Serving{{s, 2}}, Refused: objecting[p]}
				if rejected, ok := rejects[p]; ok {
					r.Rejected = []Rejection{rejected}
				}
				reports[p] = r
			}
			some.reports, all.reports = maps.Clone(reports), maps.Clone(reports)
			fails := rng.IntN(8)
			fail := func(ref source.ObjectRef) bool { return fails == 0 && ref.Name < "d" }
			for range 2 { // what was written is judged again
				now = now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
				all.renew()
				some.evaluate()
				all.evaluate()
				if a, b := some.work(fail), all.work(fail); a != b {
					t.Fatalf("seed %d, step %d: %d writes, not %d", seed, step, a, b)
				}
			}
			all.renew()
			some.evaluate()
			all.evaluate()
			if a, b := some.told(), all.told(); !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d, step %d: written is\n%v\nand should be\n%v", seed, step, a, b)
			}
			if !slices.Equal(slices.Sorted(keys(some.queue.unsettled)), slices.Sorted(keys(all.queue.unsettled))) {
				t.Fatalf("seed %d, step %d: unsettled are %v, not %v", seed, step, some.queue.unsettled, all.queue.unsettled)
			}
		}
	}
}

func keys(unsettled map[source.ObjectRef]time.Time) func(func(string) bool) {
	return func(yield func(string) bool) {
		for ref := range unsettled {
			if !yield(ref.String()) {
				return
			}
		}
	}
}

// What has not changed is not judged, however often is looked.
func TestOnlyChangesAreJudged(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := leading(func() time.Time { return now })
	var objects []source.Object
	for i := range 100 {
		objects = append(objects, object("Route", fmt.Sprintf("r%02d", i), 1))
	}
	nothing := func(source.ObjectRef) bool { return false }
	serve := func(replicas int) {
		objs := readingOf(objects...)
		l.Update(objs, clean(objs))
		l.reports = Reports{"control": {Serving: []Serving{{setOf(objs, clean(objs)), replicas}}}}
	}
	// judged counts the objects that a look finds worth judging.
	judged := func() int {
		l.mu.Lock()
		f := l.merge()
		l.affects(f)
		n := len(l.news.objects)
		if l.news.all {
			n = l.objs.Len()
		}
		l.mu.Unlock()
		l.evaluate()
		return n
	}
	serve(3)
	if n := judged(); n != 100 {
		t.Errorf("%d of 100 at first", n)
	}
	if n := l.work(nothing); n != 100 {
		t.Errorf("%d of 100 written", n)
	}
	l.evaluate()
	if len(l.queue.unsettled) != 0 {
		t.Errorf("%d unsettled", len(l.queue.unsettled))
	}
	if n := judged(); n != 0 {
		t.Errorf("%d where nothing has changed", n)
	}
	before := l.reports
	objects[7] = object("Route", "r07", 2)
	serve(3)
	after := l.reports["control"].Serving[0].Set
	l.reports = before // nobody has it yet
	if n := judged(); n != 1 {
		t.Errorf("%d where one has changed", n)
	}
	l.reports = Reports{"control": {Serving: []Serving{{before["control"].Serving[0].Set, 2}, {after, 1}}}}
	if n := judged(); n != 1 {
		t.Errorf("%d where one replica has got it", n)
	}
	l.reports = Reports{"control": {Serving: []Serving{{after, 3}}}}
	if n := judged(); n != 1 {
		t.Errorf("%d where all have", n)
	}
	if n := l.work(nothing); n != 1 {
		t.Errorf("%d written", n)
	}
	judged()
	serve(4)
	if n := judged(); n != 100 {
		t.Errorf("%d where there is a replica more", n)
	}
	if n := judged(); n != 0 || len(l.queue.unsettled) != 100 {
		t.Errorf("%d are judged while it is waited whether it lasts, %d wait", n, len(l.queue.unsettled))
	}
	now = now.Add(l.opts.Settle)
	l.evaluate()
	if n := l.work(nothing); n != 100 {
		t.Errorf("%d written when it has lasted", n)
	}
}

// BenchmarkEvaluate is what a second costs in which one of 10,000 objects has changed and is not everywhere yet.
func BenchmarkEvaluate(b *testing.B) {
	var objects []source.Object
	for i := range 10_000 {
		objects = append(objects, object("Route", fmt.Sprintf("r%05d", i), 1))
	}
	l := leading(time.Now)
	objs := readingOf(objects...)
	l.Update(objs, clean(objs))
	set := setOf(objs, clean(objs))
	l.reports = Reports{"control": {Serving: []Serving{{set, 200}}}}
	l.evaluate()
	l.work(func(source.ObjectRef) bool { return false })
	b.ReportAllocs()
	n := int64(1)
	for b.Loop() {
		n++
		objects[5000] = object("Route", "r05000", n)
		objs := readingOf(objects...)
		l.Update(objs, clean(objs))
		l.evaluate()
	}
}

func TestPace(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPace(300)
	at := func(what string, want float64) {
		t.Helper()
		if got := float64(p.limiter.Limit()); got != want {
			t.Errorf("%s: %v a second, want %v", what, got, want)
		}
	}
	at("at first", startQPS)
	for range 100 {
		p.done(now, 10*time.Millisecond, nil)
	}
	at("after 100 quick ones", 150)
	p.done(now, 300*time.Millisecond, nil)
	at("one that is neither quick nor slow", 150)
	for range 8 { // those that were under way
		p.done(now, time.Second, nil)
	}
	at("slow ones", 75)
	now = now.Add(relief)
	p.done(now, time.Millisecond, fmt.Errorf("too many requests"))
	at("one that failed", 37.5)
	for range 10 {
		now = now.Add(relief)
		p.done(now, time.Second, nil)
	}
	at("slow for long", leastQPS)
	for range 1000 {
		p.done(now, time.Millisecond, nil)
	}
	at("quick for long", 300)
	if p := newPace(5); p.limiter.Limit() != 5 {
		t.Errorf("%v a second where 5 are permitted", p.limiter.Limit())
	} else if p.done(now, time.Second, nil); p.limiter.Limit() != 5 {
		t.Errorf("%v a second where 5 are few enough", p.limiter.Limit())
	}
}
