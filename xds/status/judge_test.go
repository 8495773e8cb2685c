package status

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/accept"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// object is an object of the namespace ns.
func object(kind, name string, generation int64) source.Object {
	o, _ := source.NewObject(kind)
	o.SetNamespace("ns")
	o.SetName(name)
	o.SetUID(types.UID("uid-" + name))
	o.SetGeneration(generation)
	return o
}

func readingOf(objects ...source.Object) *source.Objects {
	objs := source.NewObjects()
	for _, o := range objects {
		if err := objs.Add(o); err != nil {
			panic(err)
		}
	}
	objs.Sort()
	return objs
}

// clean is the Result of a reading with which nothing is wrong.
func clean(objs *source.Objects) accept.Result {
	return accept.Result{Version: &compile.Version{ID: "v-" + objs.Digest()}, Objects: objs, Refused: map[source.ObjectRef]accept.Kept{}}
}

// setOf names what a Result serves.
func setOf(objs *source.Objects, res accept.Result) Set {
	var n naming
	names := n.name(objs, res)
	return names.set()
}

// TestJudge: what is written of one object, by what is wrong with it and by what the replicas serve.
func TestJudge(t *testing.T) {
	const refNotFound, conflict = source.ReasonRefNotFound, source.ReasonConflict
	route, older := object("Route", "r", 4), object("Route", "r", 3)
	ref := source.RefOf(route)
	now, before := readingOf(route), readingOf(older)
	h := newHistory()
	h.add(before, clean(before))
	h.add(now, clean(now))
	find := func(objs *source.Objects) lookup {
		l, ok := h.find(Set{Digest: objs.Digest()})
		if !ok {
			t.Fatal("a reading is not known")
		}
		return l
	}
	all := &fleet{total: 3, serving: []counted{{find(now), 3}}}
	some := &fleet{total: 3, serving: []counted{{find(now), 2}, {find(before), 1}}}
	none := &fleet{total: 3, serving: []counted{{find(before), 3}}}
	problem := func(severity source.Severity, reason source.Reason, field, message string) []source.Problem {
		return []source.Problem{{Object: ref, Field: field, Message: message, Severity: severity, Reason: reason}}
	}
	programmed := func(generation int64) []metav1.Condition {
		return []metav1.Condition{{Type: "Programmed", Status: "True", Reason: "Programmed", Message: "as it was", ObservedGeneration: generation}}
	}
	for name, tc := range map[string]struct {
		problems []source.Problem
		kept     accept.Kept
		older    int64
		fleet    *fleet
		known    []metav1.Condition
		want     string
	}{
		"served by all": {fleet: all, want: `
Accepted True Accepted valid
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed True Programmed programmed on 3 of 3 replicas`},
		"served by some": {fleet: some, want: `
Programmed False Pending programmed on 2 of 3 replicas`},
		"served by none, since nothing compiles": {fleet: &fleet{total: 3, serving: none.serving, trouble: "there is no LLMGateway"}, want: `
Programmed False Pending programmed on 0 of 3 replicas; nothing new is served: there is no LLMGateway`},
		"no replica": {fleet: &fleet{}, known: programmed(4), want: `
Programmed False NoReplicas no replica of Weir is up`},
		"replicas that start": {fleet: &fleet{starting: 1}, want: `
Programmed False Pending no replica serves anything yet: 1 replica starting`},
		"Envoy refuses it": {fleet: &fleet{total: 3, serving: some.serving, rejected: []rejected{{counted{find(now), 1}, "no such filter"}}}, want: `
Programmed False Rejected programmed on 2 of 3 replicas; Envoy refuses it on 1: no such filter`},
		"Envoy refuses it alone, on the leader's replica among others": {problems: problem(source.Error, source.ReasonRefusedByEnvoy, "", "Envoy refuses it: odd"), kept: accept.Older, older: 3,
			fleet: &fleet{total: 3, serving: some.serving, refused: map[source.ObjectRef][]refused{ref: {{identityOf(route), 1, "Envoy refuses it: odd"}}}}, want: `
Accepted False RefusedByEnvoy Envoy refuses it: odd
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed False Rejected programmed on 2 of 3 replicas; not on 1: Envoy refuses it: odd`},
		"Envoy refuses it on another replica than the leader's": {
			fleet: &fleet{total: 3, serving: some.serving, refused: map[source.ObjectRef][]refused{ref: {{identityOf(older), 3, "old"}, {identityOf(route), 1, "Envoy refuses it: odd"}}}}, want: `
Accepted False RefusedByEnvoy Envoy refuses it: odd
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed False Rejected programmed on 2 of 3 replicas; not on 1: Envoy refuses it: odd`},
		"Envoy refuses a value of it": {problems: problem(source.Error, source.ReasonRefusedByEnvoy, "", "Envoy refuses the value"),
			fleet: &fleet{total: 3, serving: all.serving, refused: map[source.ObjectRef][]refused{ref: {{identityOf(route), 3, "Envoy refuses the value"}}}}, want: `
Accepted False RefusedByEnvoy Envoy refuses the value
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed True Programmed programmed on 3 of 3 replicas`},
		"Envoy refused an older generation": {
			fleet: &fleet{total: 3, serving: all.serving, refused: map[source.ObjectRef][]refused{ref: {{identityOf(older), 3, "odd"}}}}, want: `
Accepted True Accepted valid
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed True Programmed programmed on 3 of 3 replicas`},
		"Envoy refuses what came before": {fleet: &fleet{total: 3, serving: some.serving, rejected: []rejected{{counted{find(before), 1}, "no such filter"}}}, want: `
Programmed False Pending programmed on 2 of 3 replicas`},
		"a replica serves what is not known, and it was programmed": {fleet: &fleet{total: 3, unknown: 1, serving: []counted{{find(now), 2}}}, known: programmed(4), want: `
Programmed True Programmed as it was`},
		"a replica serves what is not known, and it was not": {fleet: &fleet{total: 3, unknown: 1, serving: []counted{{find(now), 2}}}, known: programmed(3), want: `
Programmed False Pending programmed on 2 of 3 replicas`},
		"invalid, and older goes on": {problems: problem(source.Error, "", "spec.rules[0]", "it is wrong"), kept: accept.Older, older: 3, fleet: none, want: `
Accepted False Invalid spec.rules[0]: it is wrong
ResolvedRefs True ResolvedRefs everything it refers to can be used
Programmed False Invalid generation 4 is refused; generation 3 goes on being served, on 3 of 3 replicas`},
		"in conflict, and left out": {problems: problem(source.Error, conflict, "", "it is taken"), kept: accept.LeftOut, fleet: none, want: `
Accepted False Conflict it is taken
Programmed False Invalid generation 4 is refused, so the object is left out`},
		"refused for what it refers to": {problems: problem(source.Error, refNotFound, "spec.x", "there is none"), kept: accept.LeftOut, fleet: none, want: `
Accepted True Accepted valid
ResolvedRefs False RefNotFound spec.x: there is none
Programmed False UnresolvedRefs generation 4 is refused, so the object is left out`},
		"goes on with a value that is gone": {problems: problem(source.Error, source.ReasonSecretUnavailable, "spec.x", "it is gone"), kept: accept.Older, older: 4, fleet: all, want: `
Accepted True Accepted valid
ResolvedRefs False SecretUnavailable spec.x: it is gone; it goes on with what was read before
Programmed True Programmed programmed on 3 of 3 replicas`},
		"a replica does not go on with it": {problems: problem(source.Error, source.ReasonSecretUnavailable, "spec.x", "it is gone"), kept: accept.Older, older: 4, fleet: some, want: `
Programmed False Pending programmed on 2 of 3 replicas`},
		"goes on without what it refers to": {problems: problem(source.Warning, refNotFound, "spec.x", "there is none"), fleet: all, want: `
Accepted True Accepted valid
ResolvedRefs False RefNotFound spec.x: there is none
Programmed True Programmed programmed on 3 of 3 replicas`},
		"a warning": {problems: problem(source.Warning, "", "spec.x", "odd"), fleet: all, want: `
Accepted True Accepted valid; warning: spec.x: odd
ResolvedRefs True ResolvedRefs everything it refers to can be used`},
		"many problems": {problems: append(problem(source.Error, "", "a", "1"), source.Problem{Field: "b", Message: "2"}, source.Problem{Field: "c", Message: "3"},
			source.Problem{Field: "d", Message: "4"}, source.Problem{Field: "e", Message: "5"}, source.Problem{Field: "f", Message: "6"}, source.Problem{Field: "g", Message: "7"}),
			kept: accept.LeftOut, fleet: none, want: `
Accepted False Invalid a: 1; b: 2; c: 3; d: 4; e: 5; and 2 more`},
		"a message that a terminal would obey": {problems: problem(source.Error, "", "", "a\nb\x1b[31m"+strings.Repeat("é", 2000)), kept: accept.LeftOut, fleet: none, want: `
Accepted False Invalid a b[31m` + strings.Repeat("é", 1019) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(ref, identityOf(route), tc.problems, tc.kept, tc.older, tc.fleet, tc.known)
			got := ""
			for _, c := range v.conditions {
				got += fmt.Sprintf("\n%s %s %s %s", c.Type, c.Status, c.Reason, c.Message)
				if c.ObservedGeneration != 4 {
					t.Errorf("%s is of generation %d", c.Type, c.ObservedGeneration)
				}
			}
			for line := range strings.SplitSeq(strings.TrimPrefix(tc.want, "\n"), "\n") {
				if !strings.Contains(got+"\n", "\n"+line+"\n") {
					t.Errorf("there is no line\n%s\nin%s", line, got)
				}
			}
		})
	}

	grant := judge(source.ObjectRef{Kind: "ReferenceGrant", Namespace: "ns", Name: "g"}, identity{"uid-g", 1}, nil, 0, 0, none, nil)
	if len(grant.conditions) != 1 || grant.conditions[0].Type != v1alpha1.ConditionAccepted {
		t.Errorf("a ReferenceGrant has %v", grant.conditions)
	}
}

// TestSameGeneration: a Set with an exception of the generation that was read is one that serves it.
func TestSameGeneration(t *testing.T) {
	route := object("Route", "r", 4)
	objs, ref := readingOf(route), source.RefOf(route)
	res := clean(objs)
	res.Objects, res.Refused[ref] = readingOf(route), accept.Older
	h := newHistory()
	h.add(objs, res)
	for _, set := range []Set{setOf(objs, res), {Digest: objs.Digest()}} {
		found, ok := h.find(set)
		if !ok {
			t.Fatalf("%v is not known", set)
		}
		f := &fleet{total: 1, serving: []counted{{found, 1}}}
		gone := []source.Problem{{Object: ref, Message: "gone", Reason: source.ReasonSecretUnavailable}}
		v := judge(ref, identityOf(route), gone, accept.Older, served(objs, res)[ref], f, nil)
		if v.condition("Programmed").Status != metav1.ConditionTrue || v.condition("Accepted").Status != metav1.ConditionTrue || v.condition("ResolvedRefs").Status != metav1.ConditionFalse {
			t.Errorf("%v: %v", set, v.conditions)
		}
	}
}

// TestFleet: replicas that have just started do not count, and what a process served before stands in for what nobody else has read yet.
func TestFleet(t *testing.T) {
	one, two := readingOf(object("Route", "r", 1)), readingOf(object("Route", "r", 2))
	ref := source.ObjectRef{Kind: "Route", Namespace: "ns", Name: "r"}
	h := newHistory()
	h.add(one, clean(one))
	h.add(two, clean(two))
	l := &leader{Writer: &Writer{history: h}, known: map[string]Set{}}
	serving := func(digest string, n int) Report { return Report{Serving: []Serving{{Set{Digest: digest}, n}}} }
	for i, tc := range []struct {
		reports Reports
		want    string
	}{
		{Reports{"a": serving("", 1)}, "0 on, 0 unknown, of 0; 1 starting"},
		{Reports{"a": serving(one.Digest(), 1), "b": serving(two.Digest(), 4), "c": serving("", 1)}, "4 on, 0 unknown, of 5; 1 starting"},
		{Reports{"a": serving("later", 1), "b": serving("later", 4), "c": serving("strange", 1)}, "4 on, 1 unknown, of 6; 0 starting"},
		{Reports{"b": serving("later", 4)}, "4 on, 0 unknown, of 4; 0 starting"},
		{Reports{"a": serving("later", 1), "b": serving(two.Digest(), 4)}, "4 on, 1 unknown, of 5; 0 starting"}, // a came back as another
		{Reports{"c": {Serving: []Serving{{Set{}, 2}}, Rejected: []Rejection{{Set{Digest: two.Digest()}, 1, "no"}}}}, "0 on, 0 unknown, of 1; 1 starting"},
		{Reports{"d": {Serving: []Serving{{Set{Digest: two.Digest(), Except: []Exception{{"Route", "ns", "r", 1}}}, 2}}}}, "0 on, 0 unknown, of 2; 0 starting"},
	} {
		l.reports = tc.reports
		f := l.merge()
		if got := fmt.Sprintf("%d on, %d unknown, of %d; %d starting", f.on(ref, identity{"uid-r", 2}), f.unknown, f.total, f.starting); got != tc.want {
			t.Errorf("%d: got %s, want %s", i, got, tc.want)
		}
	}
}

// TestHistory compares it with whole copies of the last readings.
func TestHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	h := newHistory()
	type copied struct {
		set  Set
		objs map[source.ObjectRef]identity
	}
	var copies []copied
	current := map[string]source.Object{}
	var refs []source.ObjectRef
	for i := range 8 {
		refs = append(refs, source.RefOf(object("Route", fmt.Sprint(i), 1)))
	}
	for step := range 1000 {
		name := fmt.Sprint(rng.IntN(8))
		switch was := current[name]; {
		case was == nil:
			current[name] = object("Route", name, int64(step+1))
		case rng.IntN(3) == 0:
			delete(current, name)
		default:
			current[name] = object("Route", name, int64(step+1))
		}
		var list []source.Object
		for _, o := range current {
			list = append(list, o)
		}
		objs := readingOf(list...)
		res := clean(objs)
		seen := map[source.ObjectRef]identity{}
		for _, o := range list {
			seen[source.RefOf(o)] = identityOf(o)
		}
		served := map[source.ObjectRef]identity{}
		var compiled []source.Object
		for _, o := range list {
			ref := source.RefOf(o)
			switch rng.IntN(8) {
			case 0:
				res.Refused[ref] = accept.LeftOut
			case 1:
				res.Refused[ref] = accept.Older
				compiled = append(compiled, object("Route", o.GetName(), 7777))
				served[ref] = identity{o.GetUID(), 7777}
			default:
				compiled = append(compiled, o)
				served[ref] = identityOf(o)
			}
		}
		res.Objects = readingOf(compiled...)
		h.add(objs, res)
		copies = append(copies, copied{Set{Digest: objs.Digest()}, seen}, copied{Set{Digest: res.Objects.Digest()}, served}, copied{setOf(objs, res), served})
		if len(res.Refused) == 0 {
			copies[len(copies)-2].set = setOf(objs, res)
		}
	}
	found := 0
	latest := map[string]bool{}
	for i := len(copies) - 1; i >= 0; i-- { // of equal digests the last counts
		c := copies[i]
		key := fmt.Sprint(c.set)
		if latest[key] {
			continue
		}
		latest[key] = true
		l, ok := h.find(c.set)
		if !ok {
			continue
		}
		found++
		for _, ref := range refs {
			if got := l.at(ref); got != c.objs[ref] {
				t.Fatalf("copy %d: %s is %v, not %v", i, ref, got, c.objs[ref])
			}
		}
	}
	if found < remembered || len(h.digests) != remembered || len(h.order) != remembered {
		t.Errorf("%d readings are found, %d digests are known", found, len(h.digests))
	}
	for ref, changes := range h.objects {
		if len(changes) > 3*remembered {
			t.Errorf("%d changes of %s are remembered", len(changes), ref)
		}
	}
}

// TestPatience: what is about the objects is written at once, what is about the replicas when it has lasted.
func TestPatience(t *testing.T) {
	w := &Writer{opts: Options{Grace: 2 * time.Second, Settle: 30 * time.Second, QPS: 50}}
	q := newQueue(w)
	ref := source.ObjectRef{Kind: "Route", Namespace: "ns", Name: "r"}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	conditions := func(generation int64, accepted, programmed metav1.ConditionStatus, reason, message string) verdict {
		return verdict{identity{"uid", generation}, []metav1.Condition{
			{Type: "Accepted", Status: accepted, Reason: "Accepted", ObservedGeneration: generation},
			{Type: "Programmed", Status: programmed, Reason: reason, Message: message, ObservedGeneration: generation},
		}}
	}
	// at says whether a verdict is written some seconds after the start.
	at := func(second int, v verdict, write bool) {
		t.Helper()
		now = start.Add(time.Duration(second) * time.Second)
		e := q.entry(ref)
		q.want(ref, e, v, now)
		if (e.wanted != nil) != write {
			t.Fatalf("second %d: written %v, want %v", second, e.wanted != nil, write)
		}
		if write {
			before := len(q.unsettled)
			e.written = &written{"uid", v1alpha1.Status{ObservedGeneration: v.generation, Conditions: e.wanted.conditions}}
			e.wanted, e.held, e.queued = nil, nil, false
			if q.want(ref, e, v, now); before != 1 || len(q.unsettled) != 0 {
				t.Fatalf("second %d: %d unsettled, and then %d", second, before, len(q.unsettled))
			}
		}
	}
	at(0, conditions(1, "True", "False", "Pending", "0 of 2"), false)
	at(1, conditions(1, "True", "False", "Pending", "1 of 2"), false)
	at(2, conditions(1, "True", "False", "Pending", "1 of 2"), true)
	at(3, conditions(1, "True", "True", "Programmed", "2 of 2"), true)
	at(4, conditions(1, "True", "True", "Programmed", "2 of 2"), false)
	at(5, conditions(1, "True", "True", "Programmed", "3 of 3"), false)
	at(34, conditions(1, "True", "True", "Programmed", "4 of 4"), false) // it changes again: wait again
	at(36, conditions(1, "True", "True", "Programmed", "4 of 4"), false)
	at(64, conditions(1, "True", "True", "Programmed", "4 of 4"), true)
	at(70, conditions(1, "True", "False", "NoReplicas", ""), false)
	at(80, conditions(1, "True", "True", "Programmed", "4 of 4"), false) // and they are back
	at(90, conditions(1, "True", "False", "Pending", "3 of 4"), false)
	at(100, conditions(1, "True", "False", "Rejected", "3 of 4"), false)
	at(120, conditions(1, "True", "False", "Pending", "2 of 4"), true)
	at(121, conditions(2, "False", "False", "Invalid", ""), true)
	at(122, conditions(3, "True", "False", "Pending", "0 of 4"), false)
	at(123, conditions(3, "True", "True", "Programmed", "4 of 4"), true)
	at(124, conditions(3, "False", "False", "Invalid", ""), true)
	at(125, conditions(3, "True", "False", "Rejected", "0 of 4"), true)
}

func TestNotes(t *testing.T) {
	c := func(typ string, status metav1.ConditionStatus, reason, message string, generation int64) metav1.Condition {
		return metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: generation}
	}
	for i, tc := range []struct {
		before, after []metav1.Condition
		want          string
	}{
		{nil, []metav1.Condition{c("Accepted", "True", "Accepted", "valid", 1), c("Programmed", "False", "Pending", "0 of 1", 1)}, ""},
		{nil, []metav1.Condition{c("Accepted", "False", "Invalid", "bad", 1), c("Programmed", "False", "Invalid", "left out", 1)}, "Warning Invalid bad;"},
		{[]metav1.Condition{c("Accepted", "False", "Invalid", "bad", 1)}, []metav1.Condition{c("Accepted", "False", "Invalid", "bad", 2)}, ""},
		{[]metav1.Condition{c("Accepted", "False", "Invalid", "bad", 1)}, []metav1.Condition{c("Accepted", "False", "Invalid", "worse", 2)}, "Warning Invalid worse;"},
		{[]metav1.Condition{c("Accepted", "False", "Invalid", "bad", 1)}, []metav1.Condition{c("Accepted", "True", "Accepted", "valid", 2)}, "Normal Accepted valid;"},
		{[]metav1.Condition{c("ResolvedRefs", "True", "ResolvedRefs", "", 1)}, []metav1.Condition{c("ResolvedRefs", "False", "RefNotFound", "x", 1)}, "Warning RefNotFound x;"},
		{[]metav1.Condition{c("Programmed", "True", "Programmed", "1 of 1", 1)}, []metav1.Condition{c("Programmed", "False", "Rejected", "no", 2)}, "Warning Rejected no;"},
		{[]metav1.Condition{c("Programmed", "False", "Rejected", "on 1", 2)}, []metav1.Condition{c("Programmed", "False", "Rejected", "on 2", 2)}, ""},
		{[]metav1.Condition{c("Programmed", "False", "Rejected", "no", 2)}, []metav1.Condition{c("Programmed", "True", "Programmed", "1 of 1", 3)}, "Normal Programmed 1 of 1;"},
		{[]metav1.Condition{c("Programmed", "False", "Pending", "", 2)}, []metav1.Condition{c("Programmed", "True", "Programmed", "1 of 1", 2)}, ""},
	} {
		got := ""
		for _, n := range notes(tc.before, tc.after) {
			typ := "Normal"
			if n.warning {
				typ = "Warning"
			}
			got += typ + " " + n.reason + " " + n.text + ";"
		}
		if got != tc.want {
			t.Errorf("%d: got %q, want %q", i, got, tc.want)
		}
	}
}

func TestTracker(t *testing.T) {
	tracker := NewTracker()
	one := readingOf(object("Route", "a", 1), object("Route", "b", 2))
	res := clean(one)
	ref := source.RefOf(object("Route", "b", 2))
	res.Refused[ref] = accept.Older
	res.Objects = readingOf(object("Route", "a", 1), object("Route", "b", 1))
	tracker.Compiled(one, res)
	tracker.Compiled(one, accept.Result{})
	want := Set{Digest: one.Digest(), Except: []Exception{{"Route", "ns", "b", 1}}}
	for _, name := range []string{res.Version.ID, res.Objects.Digest()} {
		r := tracker.Report(map[string]int{name: 3, "": 1, "other": 0}, map[string]Refusal{"later": {1, "odd\nwords"}, "": {1, "x"}})
		text, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decode(text)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
			t.Errorf("%v is read as %v: %v", r, back, err)
		}
		if len(r.Serving) != 2 || fmt.Sprint(r.Serving[1]) != fmt.Sprint(Serving{want, 3}) || len(r.Rejected) != 1 || r.Rejected[0].Reason != "odd words" || r.Rejected[0].Digest != "later" {
			t.Errorf("the report of %s is %v", name, r)
		}
	}
	for i := range 3 * remembered {
		objs := readingOf(object("Route", "a", int64(i)))
		tracker.Compiled(objs, clean(objs))
	}
	if len(tracker.sets) != 2*remembered || len(tracker.names) != 2*remembered {
		t.Errorf("%d versions are remembered", len(tracker.sets))
	}
}

// TestReportOfAPart: what an Envoy refuses of a version is told with the version, by the Envoy beside this process and by those of a fleet.
func TestReportOfAPart(t *testing.T) {
	now, older := object("Route", "r", 4), object("Route", "r", 3)
	read, served := readingOf(now, object("Route", "s", 1)), readingOf(older, object("Route", "s", 1))
	ref := source.RefOf(now)
	const words = "Envoy refuses it: odd\nwords"
	want := Report{
		Serving: []Serving{{Set{read.Digest(), []Exception{{"Route", "ns", "r", 3}}}, 1}},
		Refused: []ObjectRefusal{{Kind: "Route", Namespace: "ns", Name: "r", UID: "uid-r", Generation: 4, Replicas: 1, Reason: "Envoy refuses it: odd words"}},
	}
	own := NewTracker()
	own.Compiled(read, accept.Result{
		Version: &compile.Version{ID: "v"}, Objects: served, Refused: map[source.ObjectRef]accept.Kept{ref: accept.Older},
		Envoy: []accept.EnvoyRefusal{{Object: now, Reason: words}},
	})
	if got := own.Report(map[string]int{"v": 1}, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("the report is %+v", got)
	}

	fleet := NewTracker()
	fleet.Compiled(read, clean(read))
	refused := []Refused{{Object: ref, UID: now.GetUID(), Generation: 4, Serves: 3, Reason: words}}
	got := fleet.Report(map[string]int{read.Digest(): 3}, nil, Partly{read.Digest(), 1, refused}, Partly{read.Digest(), 1, refused})
	want.Serving = []Serving{{Set{Digest: read.Digest()}, 3}, {want.Serving[0].Set, 2}}
	want.Refused[0].Replicas = 2
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the report of a fleet is %+v", got)
	}
	text, err := got.encode()
	if again, decodeErr := decode(text); err != nil || decodeErr != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("%+v becomes %+v (%v, %v)", got, again, err, decodeErr)
	}
}

// FuzzReport: whatever is in an annotation, what is read of it is within bounds.
func FuzzReport(f *testing.F) {
	f.Add(`{"serving":[{"digest":"0123456789abcdef","replicas":2,"except":[{"kind":"Route","namespace":"a","name":"b","generation":3}]}],"rejected":[{"digest":"x","replicas":1,"reason":"no\u0000\n"}]}`)
	f.Add(`{"serving":[{"replicas":-1}]}`)
	f.Add(`{"refused":[{"kind":"Route","namespace":"a","name":"b","uid":"u","generation":3,"replicas":1,"reason":"no\u001b"},{"replicas":-1}]}`)
	f.Add(`[]`)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := decode(text)
		if err != nil {
			return
		}
		for _, s := range r.Serving {
			if s.Replicas < 0 {
				t.Errorf("%d replicas", s.Replicas)
			}
		}
		for _, s := range r.Rejected {
			if s.Replicas < 0 || len(s.Reason) > maxReason || strings.ContainsAny(s.Reason, "\n\x00\x1b") {
				t.Errorf("%d replicas refuse it: %q", s.Replicas, s.Reason)
			}
		}
		for _, s := range r.Refused {
			if s.Replicas < 0 || len(s.Reason) > maxReason || strings.ContainsAny(s.Reason, "\n\x00\x1b") {
				t.Errorf("%d replicas refuse an object: %q", s.Replicas, s.Reason)
			}
		}
	})
}
