package accept

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/weir-dev/weir/xds/source"
)

// change makes a random change to a random object of the namespaces x and y. A third of what it writes is wrong, by itself or together with
// others.
func (c *cluster) change(rng *rand.Rand) {
	one := func(of ...string) string { return of[rng.IntN(len(of))] }
	namespace, n := one("x", "y"), rng.IntN(4)
	name := func(kind string) string { return fmt.Sprintf("%s %s/o%d", kind, namespace, n) }
	if rng.IntN(6) == 0 {
		for ref := range c.objects {
			if ref.Namespace == namespace && ref.Name == fmt.Sprintf("o%d", n) && ref.Kind == one("Backend", "Route", "Consumer", "APIKey", "LoadPolicy", "LLMGateway") {
				c.remove(ref)
				return
			}
		}
	}
	other := rng.IntN(4)
	switch rng.IntN(9) {
	case 0:
		c.apply(name("LLMGateway"), fmt.Sprintf("{listeners: [{name: a, address: 127.0.0.1, port: %d}, {name: b, address: 127.0.0.1, port: %d}]}", 1000+rng.IntN(3), 2000+rng.IntN(3)))
	case 1:
		c.apply(name("LLMGateway"), "{listeners: [{name: a, address: 127.0.0.1, port: 3000, tls: {certificateRef: {name: none}, privateKeyRef: {name: none}}}]}")
	case 2:
		c.apply(name("Backend"), fmt.Sprintf("{dialect: %s, url: 'https://api.example.com/v1'}", one("openai", "openai", "none")))
	case 3:
		c.apply(name("Backend"), fmt.Sprintf("{dialect: openai, url: 'https://api.example.com/v1', credential: {secretRef: {name: %s}}}", one("s1", "s2", "none")))
	case 4:
		c.apply(name("Route"), fmt.Sprintf("{rules: [{matches: [{headers: [{name: x-%d, type: RegularExpression, value: '%s'}]}], backends: [{name: o%d}]}]}", n, one("a", "b", "("), other))
	case 5:
		c.apply(name("Consumer"), one("{}", "{tenant: t}", "{scopes: ['a b']}"))
	case 6:
		c.apply(name("APIKey"), fmt.Sprintf("{consumer: o%d, hash: 'sha256:%064d'}", other, rng.IntN(4)))
	case 7:
		c.apply(name("LoadPolicy"), fmt.Sprintf("{targetRefs: [{kind: Backend, name: o%d}]}", other))
	case 8:
		c.apply(name("Budget"), fmt.Sprintf("{targetRefs: [{kind: Route, name: o%d}], amount: '10', period: Month, timeZone: %s}", other, one("Europe/Berlin", "Local", "Mars/Base")))
	}
}

// However people change what is theirs: what is served is what a fresh compilation makes of exactly the accepted objects; nobody is refused
// who could be served; those who have nothing to do with it are not touched; and two Keepers agree.
func TestRandomChanges(t *testing.T) {
	remembering, anew := 0, 0 // compilations
	compileFn, anewFn := compiler(t, &remembering), compiler(t, &anew)
	spent, refusals, olders, shut, nothing := 0, 0, 0, 0, 0
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	rig := newCluster(t)
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 8))
		c := &cluster{t: t, objects: map[source.ObjectRef]source.Object{}, secrets: map[source.SecretKey]source.Secret{}, dir: rig.dir, known: rig.known}
		good := []source.ObjectRef{
			c.apply("LLMGateway good/main", gateway), c.apply("Backend good/b", backend), c.apply("Route good/r", noModels), c.apply("Consumer good/c", "{}"),
			c.apply("APIKey good/k", "{consumer: c, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}"),
		}
		c.secret("x", "s1", "value")
		c.secret("y", "s2", "value")
		a, b := NewKeeper(), NewKeeper() // b settles every reading anew
		accepted, remembered := map[source.ObjectRef]source.Object{}, map[source.ObjectRef]source.Object{}
		for step := range 20 {
			for range 1 + rng.IntN(3) {
				c.change(rng)
			}
			objs := c.read()
			b.outcome = nil
			before := remembering
			r, again := a.Compile(objs, nil, compileFn), b.Compile(objs, nil, anewFn)
			spent += remembering - before
			at := fmt.Sprintf("seed %d, step %d", seed, step)
			if described(r) != described(again) || !reflect.DeepEqual(r.Problems, again.Problems) {
				t.Fatalf("%s: two Keepers do not agree:\n%s\n%s\n%v\n%v", at, described(r), described(again), r.Problems, again.Problems)
			}
			if r.Version == nil {
				t.Fatalf("%s: nothing is served: %v", at, r.Problems)
			}
			for _, ref := range good {
				if r.Refused[ref] != 0 {
					t.Fatalf("%s: %s is %s: %v", at, ref, r.Refused[ref], r.Problems)
				}
			}

			// What is remembered change by change is what looking at every object would remember.
			rememberAll(remembered, objs, r.Refused)
			if !maps.Equal(a.accepted, remembered) {
				t.Fatalf("%s: %v is remembered, want %v", at, a.accepted, remembered)
			}

			// What should be served, put together from what happened.
			standing := map[source.ObjectRef]source.Object{}
			for ref, o := range c.objects {
				switch r.Refused[ref] {
				case 0:
					standing[ref], accepted[ref] = o, o
				case Older:
					olders++
					standing[ref] = accepted[ref]
				case Shut:
					shut++
					standing[ref] = a.shuts[o]
				case LeftOut:
					refusals++
				}
				if r.Refused[ref] != 0 && len(errorsOf(r, ref)) == 0 {
					t.Errorf("%s: nothing says why %s is refused", at, ref)
				}
			}
			want := (&cluster{t: t, objects: standing, secrets: c.secrets}).read()
			version, problems := compileFn(want)
			if version == nil || version.ID != r.Version.ID {
				t.Fatalf("%s: what is served is not what the accepted objects make: %v", at, problems)
			}

			// Whoever is refused would be refused alone, too.
			tried := 0
			for ref := range r.Refused {
				if tried++; tried > 2 {
					break
				}
				before := standing[ref]
				standing[ref] = c.objects[ref]
				if v, _ := compileFn((&cluster{t: t, objects: standing, secrets: c.secrets}).read()); v != nil {
					t.Errorf("%s: %s is refused, and nothing is wrong with it: %v", at, ref, errorsOf(r, ref))
				}
				if standing[ref] = before; before == nil {
					delete(standing, ref)
				}
			}
			for ref := range accepted {
				if c.objects[ref] == nil {
					delete(accepted, ref)
				}
			}
			if len(r.Refused) == 0 {
				nothing++
			}
		}
	}
	if refusals < 30 || olders < 5 || shut < 2 {
		t.Errorf("only %d objects were left out, %d kept an older generation, and %d were shut", refusals, olders, shut)
	}
	t.Logf("%d left out, %d older, %d readings without a refusal; %d compilations, %d without what is remembered", refusals, olders, nothing, spent, anew)
}

// rememberAll takes over what was accepted of a reading, and forgets what is gone.
func rememberAll(accepted map[source.ObjectRef]source.Object, objs *source.Objects, refused map[source.ObjectRef]Kept) {
	current := map[source.ObjectRef]source.Object{}
	for _, o := range objs.All() {
		current[source.RefOf(o)] = o
	}
	for ref, was := range accepted {
		if now := current[ref]; now == nil && refused[ref] == 0 || now != nil && !sameObject(was, now) {
			delete(accepted, ref)
		}
	}
	for ref, o := range current {
		if refused[ref] == 0 {
			accepted[ref] = o
		}
	}
}
