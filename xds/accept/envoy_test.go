package accept

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

// fakeEnvoy refuses versions that have something bad in them.
type fakeEnvoy struct {
	t       *testing.T
	keeper  *Keeper
	compile CompileFunc
	objs    *source.Objects
	// bad says why Envoy refuses a set; "" where it takes it. It may name objects.
	bad func(*source.Objects) (words string, named, sent []source.ObjectRef)

	serving string
	tries   int
	trials  int
}

// read has the Keeper compile a reading, and goes on until nothing is left to try.
func (e *fakeEnvoy) read(objs *source.Objects) Result {
	e.t.Helper()
	e.objs = objs
	for e.tries = 0; ; e.tries++ {
		if e.tries > 200 {
			e.t.Fatal("there is no end to it")
		}
		r := e.keeper.Compile(objs, nil, e.compile)
		if r.Trial {
			e.trials++
		}
		if r.Version == nil {
			return r
		}
		again := false
		if words, named, sent := e.bad(r.Objects); words == "" || r.Version.ID == e.serving {
			e.serving = r.Version.ID
			again = e.keeper.Served(r.Version.ID)
		} else {
			again = e.keeper.Refused(Refusal{Version: r.Version.ID, Reason: words, Named: named, Sent: sent})
		}
		if !again {
			if r.Trial {
				e.t.Error("the last version was a trial")
			}
			return r
		}
	}
}

// refusing refuses sets that have one of these generations ("Route a/r:2"), without a name.
func refusing(bad ...string) func(*source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
	return func(set *source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
		for _, o := range set.All() {
			if slices.Contains(bad, fmt.Sprintf("%s:%d", source.RefOf(o), o.GetGeneration())) {
				return "odd", nil, nil
			}
		}
		return "", nil, nil
	}
}

// naming is refusing, with the object named.
func naming(bad ...string) func(*source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
	return func(set *source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
		for _, o := range set.All() {
			ref := source.RefOf(o)
			if slices.Contains(bad, fmt.Sprintf("%s:%d", ref, o.GetGeneration())) {
				return "odd: " + ref.Name, []source.ObjectRef{ref}, nil
			}
		}
		return "", nil, nil
	}
}

func newFakeEnvoy(t *testing.T) *fakeEnvoy {
	return &fakeEnvoy{t: t, keeper: NewKeeper(), compile: remembering(t), bad: refusing()}
}

// remembering compiles as compiler does, and keeps what has not changed.
func remembering(t *testing.T) CompileFunc {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	c, opts := compile.NewCompiler(), compile.Options{Dialects: dialects, Keys: identity.Offline{}, ExtProcCluster: "weir", SystemCAs: "ca.pem", Lenient: true}
	return func(objs *source.Objects) (*compile.Version, []source.Problem) { return c.Compile(objs, opts) }
}

const path = "{rules: [{matches: [{path: {value: /%s}}], backends: [{name: b}]}]}"

// TestEnvoyRefusesOne: what is named is blamed at once, and what is not is found; the older generation goes on, and the rest gets in.
func TestEnvoyRefusesOne(t *testing.T) {
	for name, bad := range map[string]func(...string) func(*source.Objects) (string, []source.ObjectRef, []source.ObjectRef){"named": naming, "unnamed": refusing} {
		t.Run(name, func(t *testing.T) {
			c, e := base(t), newFakeEnvoy(t)
			expect(t, e.read(c.read()), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: ")
			e.bad = bad("Route a/r:2", "Route x/new:1")
			route := c.apply("Route a/r", fmt.Sprintf(path, "a"))
			c.apply("Route x/new", fmt.Sprintf(path, "b"))
			c.apply("Route y/good", fmt.Sprintf(path, "c"))
			const want = "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1, Route y/good:1; refused: Route a/r older, Route x/new left out"
			r := e.read(c.read())
			expect(t, r, want)
			if got := errorsOf(r, route); len(got) != 1 || !strings.HasPrefix(got[0], ": Envoy refuses it: odd") || len(r.Envoy) != 2 || r.Envoy[0].Object != c.objects[route] {
				t.Errorf("errors %q, refusals %v", got, r.Envoy)
			}
			if name == "named" && e.trials > 0 {
				t.Errorf("%d trials", e.trials)
			}

			// What comes later gets in, and nothing is tried once more.
			later := c.apply("Route z/later", fmt.Sprintf(path, "d"))
			expect(t, e.read(c.read()), strings.Replace(want, "; ", ", Route z/later:1; ", 1))
			if e.tries > 0 {
				t.Errorf("%d more tries", e.tries)
			}
			c.remove(later)
			expect(t, e.read(c.read()), want)

			// A later generation is tried, and one that is made anew is another.
			c.apply("Route a/r", fmt.Sprintf(path, "e"))
			c.remove(source.ObjectRef{Kind: "Route", Namespace: "x", Name: "new"})
			r = e.read(c.read())
			expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:3, Route y/good:1; refused: ")
			if len(r.Envoy) != 0 || len(e.keeper.envoy.objects) != 0 {
				t.Errorf("refusals %v", r.Envoy)
			}
			c.remove(route)
			c.apply("Route a/r", fmt.Sprintf(path, "f"))
			e.bad = bad("Route a/r:1")
			expect(t, e.read(c.read()), "Backend a/b:1, LLMGateway sys/main:1, Route y/good:1; refused: Route a/r left out")
		})
	}
}

// A generation that Envoy refuses is not what stands for a later one that is invalid.
func TestRefusedGenerationDoesNotStandIn(t *testing.T) {
	c, e := base(t), newFakeEnvoy(t)
	e.read(c.read())
	e.bad = refusing("Route a/r:2")
	c.apply("Route a/r", fmt.Sprintf(path, "a"))
	e.read(c.read())
	c.apply("Route a/r", "{rules: [{matches: [{headers: [{name: x, type: RegularExpression, value: '('}]}], backends: [{name: b}]}]}")
	expect(t, e.read(c.read()), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older")

	// Also where it was compiled, and Envoy had not answered yet when the next came.
	k, compileFn := NewKeeper(), compiler(t, nil)
	c = base(t)
	k.Served(k.Compile(c.read(), nil, compileFn).Version.ID)
	c.apply("Route a/r", fmt.Sprintf(path, "a"))
	second := k.Compile(c.read(), nil, compileFn).Version.ID
	c.apply("Route a/r", "{rules: [{matches: [{headers: [{name: x, type: RegularExpression, value: '('}]}], backends: [{name: b}]}]}")
	expect(t, k.Compile(c.read(), nil, compileFn), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:2; refused: Route a/r older")
	if !k.Refused(Refusal{Version: second, Reason: "odd", Named: []source.ObjectRef{{Kind: "Route", Namespace: "a", Name: "r"}}}) {
		t.Error("nobody is blamed")
	}
	expect(t, k.Compile(c.read(), nil, compileFn), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older")
}

// Among a thousand that come at once the two that Envoy refuses are found in a bounded number of tries, also before anything is served.
func TestSearchAmongMany(t *testing.T) {
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprintf("first %v", first), func(t *testing.T) {
			c, e := base(t), newFakeEnvoy(t)
			if !first {
				e.read(c.read())
			}
			for i := range 120 {
				c.apply(fmt.Sprintf("Route t%d/r", i), noModels)
			}
			e.bad = refusing("Route t17/r:1", "Route t99/r:1")
			r := e.read(c.read())
			if len(r.Refused) != 2 || r.Refused[source.ObjectRef{Kind: "Route", Namespace: "t17", Name: "r"}] != LeftOut || r.Refused[source.ObjectRef{Kind: "Route", Namespace: "t99", Name: "r"}] != LeftOut {
				t.Errorf("refused %v", r.Refused)
			}
			if e.tries > 50 {
				t.Errorf("%d tries", e.tries)
			}
			if r.Trial || e.keeper.envoy.search != nil {
				t.Error("the search goes on")
			}
		})
	}
}

// Too many to find one by one: the search ends, and all that may be it are blamed.
func TestSearchEnds(t *testing.T) {
	c, e := base(t), newFakeEnvoy(t)
	e.read(c.read())
	var bad []string
	for i := range 100 {
		ref := c.apply(fmt.Sprintf("Route t%d/r", i), noModels)
		bad = append(bad, ref.String()+":1")
	}
	e.bad = refusing(bad...)
	r := e.read(c.read())
	if len(r.Refused) != 100 || e.tries > maxTrials+2 {
		t.Errorf("%d refused after %d tries", len(r.Refused), e.tries)
	}
	if !slices.ContainsFunc(r.Problems, func(p source.Problem) bool { return strings.Contains(p.Message, "others that changed with it: odd") }) {
		t.Errorf("problems %v", r.Problems[:3])
	}
}

// Nobody is blamed for what Envoy refuses whatever waits, and a change is tried.
func TestNobodyIsToBlame(t *testing.T) {
	c, e := base(t), newFakeEnvoy(t)
	e.read(c.read())
	e.bad = func(*source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
		return "it is in a bad mood", nil, nil
	}
	c.apply("Route a/r", fmt.Sprintf(path, "a"))
	c.apply("Consumer a/c", "{}")
	c.apply("Route b/r", fmt.Sprintf(path, "b"))
	if again := func() bool {
		r := e.keeper.Compile(c.read(), nil, e.compile)
		return e.keeper.Refused(Refusal{Version: r.Version.ID, Reason: "x"})
	}(); !again {
		t.Fatal("nothing is tried")
	}
	objs := c.read()
	r := e.keeper.Compile(objs, nil, e.compile)
	expect(t, r, "Backend a/b:1, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older, Route b/r left out")
	if !r.Trial || source.HasErrors(r.Problems) {
		t.Errorf("trial %v, problems %v", r.Trial, r.Problems)
	}
	if e.keeper.Refused(Refusal{Version: r.Version.ID, Reason: "x"}) {
		t.Error("it goes on")
	}
	r = e.keeper.Compile(objs, nil, e.compile)
	if r.Trial || len(r.Refused) != 0 || e.keeper.Refused(Refusal{Version: r.Version.ID, Reason: "x"}) {
		t.Errorf("the same reading is tried again: %v", described(r))
	}
	e.bad = refusing()
	expect(t, e.read(c.read()), "Backend a/b:1, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:2, Route b/r:1; refused: ")
}

// A value that Envoy refuses goes on as it was, for all who refer to it, until there is another.
func TestEnvoyRefusesAValue(t *testing.T) {
	const credential = "{dialect: openai, url: 'https://api.example.com/v1', credential: {secretRef: {name: s}}}"
	key := secretKey("a", "s")
	for _, named := range []bool{true, false} {
		c, e := base(t), newFakeEnvoy(t)
		c.secret("a", "s", "first")
		ref := c.apply("Backend a/b", credential)
		c.apply("Backend a/c", credential)
		e.read(c.read())
		e.bad = func(set *source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
			if set.Secrets[key].Reveal() != "second" {
				return "", nil, nil
			}
			if named {
				return "odd", []source.ObjectRef{ref}, nil
			}
			return "odd", nil, nil
		}
		c.secret("a", "s", "second")
		c.apply("Route a/r", fmt.Sprintf(path, "a"))
		const want = "Backend a/b:2, Backend a/c:1, LLMGateway sys/main:1, Route a/r:2; refused: "
		r := e.read(c.read())
		expect(t, r, want)
		if got := r.Objects.Secrets[key].Reveal(); got != "first" || len(r.Envoy) != 2 || len(errorsOf(r, ref)) != 1 {
			t.Errorf("the value is %q, refusals %v, errors %v", got, r.Envoy, errorsOf(r, ref))
		}
		if text := fmt.Sprint(r.Problems); strings.Contains(text, "first") || strings.Contains(text, "second") {
			t.Errorf("a value is in %s", text)
		}
		c.secret("a", "s", "third")
		r = e.read(c.read())
		expect(t, r, want)
		if got := r.Objects.Secrets[key].Reveal(); got != "third" || len(r.Envoy) != 0 || len(errorsOf(r, ref)) != 0 {
			t.Errorf("the value is %q, refusals %v", got, r.Envoy)
		}
		c.secret("a", "s", "") // and it may vanish
		e.read(c.read())
	}
}

// What lets callers in, or ends that, never waits; and what was deleted does not come back.
func TestCallersDoNotWait(t *testing.T) {
	const hash = "sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f"
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	c.apply("Consumer a/c", "{}")
	c.apply("APIKey a/k", "{consumer: c, hash: '"+hash+"'}")
	gone := c.apply("Route a/gone", fmt.Sprintf(path, "gone"))
	k.Served(k.Compile(c.read(), nil, compileFn).Version.ID)
	c.apply("APIKey a/k", "{consumer: c, disabled: true, hash: '"+hash+"'}")
	c.apply("Route a/r", fmt.Sprintf(path, "a"))
	c.remove(gone)
	r := k.Compile(c.read(), nil, compileFn)
	k.Refused(Refusal{Version: r.Version.ID, Reason: "odd"})
	expect(t, k.Compile(c.read(), nil, compileFn), "APIKey a/k:2, Backend a/b:1, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older")
}

// Another Envoy may refuse what was served: it says what, and that is left out.
func TestAnotherEnvoy(t *testing.T) {
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	other := c.apply("LLMGateway sys/other", "{listeners: [{name: http, address: 192.0.2.1, port: 80}]}")
	first := k.Compile(c.read(), nil, compileFn).Version.ID
	k.Served(first)
	if k.Refused(Refusal{Version: first, Reason: "odd"}) {
		t.Error("somebody is blamed, and nobody was named")
	}
	objs := c.read()
	k.Compile(objs, nil, compileFn)
	k = NewKeeper()
	k.Served(k.Compile(objs, nil, compileFn).Version.ID)
	if !k.Refused(Refusal{Version: first, Reason: "cannot bind", Named: []source.ObjectRef{other}}) {
		t.Error("who is named is not blamed")
	}
	expect(t, k.Compile(c.read(), nil, compileFn), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: LLMGateway sys/other left out")
}

// An object that the source refuses, and that has the name of one that was accepted, is not that one.
func TestMadeAnewUnreadable(t *testing.T) {
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	k.Compile(c.read(), nil, compileFn)
	ref := source.ObjectRef{Kind: "Route", Namespace: "a", Name: "r"}
	uid := c.objects[ref].GetUID()
	c.remove(ref)
	told := func(p source.Problem) []source.Problem {
		p.Object, p.Message = ref, "the schema refuses it"
		return []source.Problem{p}
	}
	expect(t, k.Compile(c.read(), told(source.Problem{UID: uid}), compileFn), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older")
	expect(t, k.Compile(c.read(), told(source.Problem{UID: "other"}), compileFn), "Backend a/b:1, LLMGateway sys/main:1; refused: ")
	expect(t, k.Compile(c.read(), told(source.Problem{UID: uid}), compileFn), "Backend a/b:1, LLMGateway sys/main:1; refused: ")
}

// Whatever changes, and whatever Envoy refuses: in the end all is served that it takes, nobody is refused whom it would take, and nobody who is not.
func TestRandomRefusals(t *testing.T) {
	rig := newCluster(t)
	blames, trials := 0, 0
	seeds := uint64(4)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 9))
		c := &cluster{t: t, objects: map[source.ObjectRef]source.Object{}, secrets: map[source.SecretKey]source.Secret{}, dir: rig.dir, known: rig.known}
		c.apply("LLMGateway sys/main", gateway)
		c.apply("Backend a/b", backend)
		e := newFakeEnvoy(t)
		isBad := func(o source.Object) bool { // by its content: what is the same Envoy is not asked about
			r, is := o.(*v1alpha1.Route)
			return is && strings.HasPrefix(string(r.Spec.Rules[0].Matches[0].Path.Value), "/bad")
		}
		e.bad = func(set *source.Objects) (string, []source.ObjectRef, []source.ObjectRef) {
			var named, sent []source.ObjectRef
			for _, o := range set.All() {
				if isBad(o) {
					if rng.IntN(4) == 0 {
						named = append(named, source.RefOf(o))
					}
					sent = append(sent, source.RefOf(o))
				}
			}
			if len(sent) == 0 {
				return "", nil, nil
			}
			if rng.IntN(2) == 0 {
				sent = nil
			}
			return "odd", named, sent
		}
		good := map[source.ObjectRef]source.Object{} // taken last
		for step := range 25 {
			for range 1 + rng.IntN(8) {
				name := fmt.Sprintf("Route t%d/r", rng.IntN(8))
				if ref := (source.ObjectRef{Kind: "Route", Namespace: name[6:8], Name: "r"}); rng.IntN(5) == 0 {
					c.remove(ref)
					continue
				}
				c.apply(name, fmt.Sprintf(path, []string{"a", "b", "c", "d", "e", "f", "bad-1", "bad-2"}[rng.IntN(8)]))
			}
			r := e.read(c.read())
			at := fmt.Sprintf("seed %d, step %d", seed, step)
			served := map[source.ObjectRef]source.Object{}
			for _, o := range r.Objects.All() {
				served[source.RefOf(o)] = o
			}
			want := map[source.ObjectRef]source.Object{}
			for ref, o := range c.objects {
				if was := good[ref]; !isBad(o) {
					want[ref] = o
				} else if blames++; was != nil && was.GetUID() == o.GetUID() {
					want[ref] = was
				}
			}
			if !maps.Equal(served, want) {
				t.Fatalf("%s: served %s", at, described(r))
			}
			for _, refusal := range r.Envoy {
				if !isBad(refusal.Object) {
					t.Fatalf("%s: %s is blamed", at, source.RefOf(refusal.Object))
				}
			}
			good = served
		}
		trials += e.trials
	}
	if blames < 20*int(seeds) || trials < 20*int(seeds) {
		t.Errorf("%d blamed, %d trials", blames, trials)
	}
}
