package accept

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
)

func secretKey(namespace, name string) source.SecretKey {
	return source.SecretKeyOf(namespace, v1alpha1.SecretRef{Name: v1alpha1.ObjectName(name), Key: "value"})
}

const (
	gateway  = "{listeners: [{name: http, address: 127.0.0.1, port: 8080}]}"
	backend  = "{dialect: openai, url: 'https://api.example.com/v1'}"
	noModels = "{rules: [{backends: [{name: b}]}]}"
)

// base is a cluster of three objects with which nothing is wrong.
func base(t *testing.T) *cluster {
	c := newCluster(t)
	c.apply("LLMGateway sys/main", gateway)
	c.apply("Backend a/b", backend)
	c.apply("Route a/r", noModels)
	return c
}

func expect(t *testing.T, r Result, want string) {
	t.Helper()
	if got := described(r); got != want {
		t.Errorf("got  %s\nwant %s\n%v", got, want, r.Problems)
	}
}

func TestNothingIsRefused(t *testing.T) {
	calls := 0
	objs := base(t).read()
	r := NewKeeper().Compile(objs, nil, compiler(t, &calls))
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: ")
	if calls != 1 || r.Objects != objs {
		t.Errorf("%d compilations, and the objects are a copy: %v", calls, r.Objects != objs)
	}
}

func TestRefusedObjects(t *testing.T) {
	const badRoute = "{rules: [{matches: [{headers: [{name: x, type: RegularExpression, value: '('}]}], backends: [{name: b}]}]}"
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)

	// One that was never accepted is left out.
	bad := c.apply("Route b/bad", badRoute)
	r := k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route b/bad left out")
	if got := errorsOf(r, bad); len(got) != 1 || !strings.HasPrefix(got[0], "spec.rules[0].matches[0].headers[0].value: not a regular expression") {
		t.Errorf("errors %q", got)
	}

	// One that was accepted keeps that generation, whatever comes after it.
	route := c.apply("Route a/r", badRoute)
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older, Route b/bad left out")
	c.apply("Route a/r", strings.Replace(badRoute, "'('", "')'", 1))
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older, Route b/bad left out")
	if len(errorsOf(r, route)) != 1 {
		t.Errorf("errors %q", errorsOf(r, route))
	}

	// Mended, both are served.
	c.apply("Route a/r", noModels)
	c.apply("Route b/bad", "{rules: [{backends: [{name: none}]}]}") // goes on without its backend
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route a/r:4, Route b/bad:2; refused: ")
	if source.HasErrors(r.Problems) {
		t.Errorf("problems %v", r.Problems)
	}

	// Deleted and made again, it is another object.
	c.remove(route)
	c.apply("Route a/r", badRoute)
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1, Route b/bad:2; refused: Route a/r left out")

	// And one that is gone is not remembered.
	c.remove(route)
	c.remove(bad)
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, LLMGateway sys/main:1; refused: ")
	if len(k.accepted) != 2 || len(k.refs) > 2 {
		t.Errorf("%d objects and the references of %d are remembered", len(k.accepted), len(k.refs))
	}
}

// Where nothing can be served, what was accepted is not forgotten.
func TestWholeConfiguration(t *testing.T) {
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	k.Compile(c.read(), nil, compileFn)
	main := source.ObjectRef{Kind: "LLMGateway", Namespace: "sys", Name: "main"}
	kept := c.objects[main]
	c.remove(main)
	r := k.Compile(c.read(), nil, compileFn)
	expect(t, r, "nothing; refused: ")
	if r.Objects != nil || !slices.ContainsFunc(r.Problems, func(p source.Problem) bool { return strings.Contains(p.Message, "there is no LLMGateway") }) {
		t.Errorf("problems %v", r.Problems)
	}
	c.objects[main] = kept
	c.apply("LLMGateway sys/main", "{listeners: [{name: a, address: 127.0.0.1, port: 1, tls: {certificateRef: {name: none}, privateKeyRef: {name: none}}}]}")
	expect(t, k.Compile(c.read(), nil, compileFn), "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: LLMGateway sys/main older")
	expect(t, NewKeeper().Compile(c.read(), nil, compileFn), "nothing; refused: LLMGateway sys/main left out")

	whole := []source.Problem{{Message: "the list could not be read"}}
	r = k.Compile(base(t).read(), whole, compileFn)
	expect(t, r, "nothing; refused: ")
	if !slices.Contains(r.Problems, whole[0]) {
		t.Errorf("problems %v", r.Problems)
	}
}

// An Error that names an object nobody knows must end in words, not in an endless loop.
func TestBlameless(t *testing.T) {
	stranger := source.Problem{Object: source.ObjectRef{Kind: "Route", Namespace: "x", Name: "stranger"}, Message: "odd"}
	refuseAll := func(*source.Objects) (*compile.Version, []source.Problem) { return nil, []source.Problem{stranger} }
	r := NewKeeper().Compile(base(t).read(), nil, refuseAll)
	expect(t, r, "nothing; refused: ")
	if !slices.Contains(r.Problems, stranger) {
		t.Errorf("problems %v", r.Problems)
	}
	own := source.Problem{Object: source.ObjectRef{Kind: "Route", Namespace: "a", Name: "r"}, Message: "odd"}
	r = NewKeeper().Compile(base(t).read(), nil, func(*source.Objects) (*compile.Version, []source.Problem) { return nil, []source.Problem{own} })
	expect(t, r, "nothing; refused: Route a/r left out")
	if !slices.Equal(r.Problems, []source.Problem{own}) {
		t.Errorf("problems %v", r.Problems)
	}
}

func TestErrorsOfTheSource(t *testing.T) {
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	k.Compile(c.read(), nil, compileFn)
	route := c.apply("Route a/r", noModels)
	told := []source.Problem{{Object: route, Field: "spec", Message: "the schema refuses it"},
		{Object: source.ObjectRef{Kind: "Route", Namespace: "a", Name: "never-seen"}, Message: "the schema refuses it"}}
	want := "Backend a/b:1, LLMGateway sys/main:1, Route a/r:1; refused: Route a/r older"
	r := k.Compile(c.read(), told, compileFn)
	expect(t, r, want)
	if len(r.Problems) < 2 || len(errorsOf(r, route)) != 1 {
		t.Errorf("problems %v", r.Problems)
	}
	c.remove(route) // the source leaves out what it refuses
	expect(t, k.Compile(c.read(), told, compileFn), want)
	expect(t, k.Compile(c.read(), told, compileFn), want)
	expect(t, k.Compile(c.read(), nil, compileFn), "Backend a/b:1, LLMGateway sys/main:1; refused: ")
}

// Of two that contradict each other the older one is right, whatever their names; and one that loses goes back to what it was.
func TestConflicts(t *testing.T) {
	const hash = "sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f"
	listen := func(ports string) string { return "{listeners: [" + ports + "]}" }
	const p80, p81, p82 = "{name: a, address: 127.0.0.1, port: 80}", "{name: b, address: 127.0.0.1, port: 81}", "{name: c, address: 127.0.0.1, port: 82}"
	c, k, compileFn := newCluster(t), NewKeeper(), compiler(t, nil)
	c.apply("LLMGateway z/first", listen(p80))
	second := c.apply("LLMGateway m/second", listen(p80+", "+p81))
	c.apply("LLMGateway a/third", listen(p81))
	// The second contradicts both. It loses to the first, and then the third contradicts nobody.
	r := k.Compile(c.read(), nil, compileFn)
	expect(t, r, "LLMGateway a/third:1, LLMGateway z/first:1; refused: LLMGateway m/second left out")
	if got := errorsOf(r, second); len(got) != 1 || !strings.Contains(got[0], "LLMGateway z/first already listens") {
		t.Errorf("errors %q", got)
	}
	c.apply("LLMGateway m/second", listen(p82))
	expect(t, k.Compile(c.read(), nil, compileFn), "LLMGateway a/third:1, LLMGateway m/second:2, LLMGateway z/first:1; refused: ")
	c.apply("LLMGateway m/second", listen(p82+", "+p80))
	expect(t, k.Compile(c.read(), nil, compileFn), "LLMGateway a/third:1, LLMGateway m/second:2, LLMGateway z/first:1; refused: LLMGateway m/second older")

	c.apply("Consumer z/c", "{}")
	c.apply("Consumer a/c", "{}")
	c.apply("APIKey z/key", "{consumer: c, hash: '"+hash+"'}")
	c.apply("APIKey a/key", "{consumer: c, hash: '"+hash+"'}")
	r = k.Compile(c.read(), nil, compileFn)
	if got := described(r); !strings.Contains(got, "APIKey z/key:1") || !strings.Contains(got, "APIKey a/key left out") {
		t.Errorf("got %s", got)
	}
}

// Many that contradict one another are settled in a bounded number of compilations.
func TestManyConflicts(t *testing.T) {
	calls := 0
	c := base(t)
	ref := c.apply("LLMGateway sys/copy", gateway)
	for i := range 200 {
		o := c.objects[ref].(*v1alpha1.LLMGateway).DeepCopy()
		o.Name = "copy-" + strings.Repeat("x", i+1)
		o.UID = "copy"
		c.objects[source.RefOf(o)] = o
	}
	k, compileFn := NewKeeper(), compiler(t, &calls)
	r := k.Compile(c.read(), nil, compileFn)
	if len(r.Refused) != 201 || r.Version == nil || calls > 2*patience+5 {
		t.Errorf("%d refused after %d compilations", len(r.Refused), calls)
	}
	c.apply("Route a/r", noModels)
	calls = 0
	if r = k.Compile(c.read(), nil, compileFn); len(r.Refused) != 201 || r.Version == nil || calls > 2 {
		t.Errorf("%d refused after %d more compilations", len(r.Refused), calls)
	}
}

func TestValues(t *testing.T) {
	credential := func(name string) string {
		return "{dialect: openai, url: 'https://api.example.com/v1', credential: {secretRef: {name: " + name + "}}}"
	}
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	c.secret("a", "s1", "value-1")
	c.apply("Backend a/b", credential("s1"))
	c.apply("Consumer a/c", "{}")
	c.secret("a", "key", "key-value-that-is-long-enough-for-anybody")
	c.apply("APIKey a/k", "{consumer: c, secretRef: {name: key}}")
	all := "APIKey a/k:1, Backend a/b:2, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: "
	expect(t, k.Compile(c.read(), nil, compileFn), all)

	// A generation that points to nothing: the value of the one before it is read by nobody now, and remembered.
	c.apply("Backend a/b", credential("s2"))
	r := k.Compile(c.read(), nil, compileFn)
	expect(t, r, all+"Backend a/b older")
	if v := r.Objects.Secrets[secretKey("a", "s1")]; v.Reveal() != "value-1" {
		t.Error("the value of the older generation is not there")
	}
	for range 2 { // also by what comes after
		r = k.Compile(c.read(), nil, compileFn)
		expect(t, r, all+"Backend a/b older")
	}
	c.secret("a", "s2", "value-2")
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, strings.Replace(all, "b:2", "b:3", 1))

	// A Secret that vanishes takes nothing with it: the last good value goes on, also through an edit.
	c.secret("a", "s2", "")
	kept := strings.Replace(all, "b:2", "b:3", 1) + "Backend a/b older"
	for range 2 {
		r = k.Compile(c.read(), nil, compileFn)
		expect(t, r, kept)
		if v := r.Objects.Secrets[secretKey("a", "s2")]; v.Reveal() != "value-2" {
			t.Error("the last good value is not there")
		}
		if got := errorsOf(r, source.ObjectRef{Kind: "Backend", Namespace: "a", Name: "b"}); len(got) != 1 {
			t.Errorf("errors %q", got)
		}
	}
	ref := c.apply("Backend a/b", credential("s2"))
	expect(t, k.Compile(c.read(), nil, compileFn), kept)
	// But not where more is wrong with it than that.
	k2 := NewKeeper()
	c.secret("a", "s2", "value-3")
	expect(t, k2.Compile(c.read(), nil, compileFn), strings.Replace(all, "b:2", "b:4", 1))
	c.secret("a", "s2", "")
	told := []source.Problem{{Object: ref, Message: "gone", Reason: source.ReasonSecretUnavailable}, {Object: ref, Message: "not permitted", Reason: source.ReasonRefNotPermitted}}
	expect(t, k2.Compile(c.read(), told[:1], compileFn), strings.Replace(all, "b:2", "b:4", 1)+"Backend a/b older")
	expect(t, k2.Compile(c.read(), told, compileFn), strings.Replace(all, "Backend a/b:2, ", "", 1)+"Backend a/b left out")
	c.apply("Backend a/b", backend)

	// A caller's key is never remembered: whoever deletes its Secret means it.
	c.apply("APIKey a/k", "{consumer: c, secretRef: {name: other}}")
	r = k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:5, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: APIKey a/k left out")
	if len(r.Objects.Secrets) != 0 {
		t.Errorf("%d values of objects that are not served", len(r.Objects.Secrets))
	}
}

// A caller's key ends with its Secret, also where something else keeps the value of that Secret.
func TestSharedSecret(t *testing.T) {
	c, compileFn := base(t), compiler(t, nil)
	c.secret("a", "s", "value-that-is-long-enough-for-anybody")
	c.apply("Backend a/b", "{dialect: openai, url: 'https://api.example.com/v1', credential: {secretRef: {name: s}}}")
	c.apply("Consumer a/c", "{}")
	c.apply("APIKey a/k", "{consumer: c, secretRef: {name: s}}")
	k, edited := NewKeeper(), NewKeeper()
	for _, keeper := range []*Keeper{k, edited} {
		expect(t, keeper.Compile(c.read(), nil, compileFn), "APIKey a/k:1, Backend a/b:2, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: ")
	}
	c.secret("a", "s", "")
	const want = "Backend a/b:2, Consumer a/c:1, LLMGateway sys/main:1, Route a/r:1; refused: APIKey a/k left out, Backend a/b older"
	for range 3 {
		expect(t, k.Compile(c.read(), nil, compileFn), want)
	}
	c.apply("APIKey a/k", "{consumer: c, secretRef: {name: other}}")
	for range 2 {
		expect(t, edited.Compile(c.read(), nil, compileFn), want)
	}
}

// However many keys are one, a reading costs a few compilations; and what is refused as before costs none.
func TestManyKeys(t *testing.T) {
	for _, n := range []int{70, 500} {
		calls := 0
		c, k, compileFn := base(t), NewKeeper(), compiler(t, &calls)
		c.apply("Consumer a/c", "{}")
		key := func(i int) source.ObjectRef {
			return c.apply(fmt.Sprintf("APIKey a/k%03d", n-i), "{consumer: c, hash: 'sha256:37a721706adc5240e60def713f9817d6800983f74ab6c89c32f41c244b29e03f'}")
		}
		oldest := key(0)
		for i := 1; i < n; i++ {
			key(i)
		}
		read := func(most int, served source.ObjectRef) {
			t.Helper()
			calls = 0
			r := k.Compile(c.read(), nil, compileFn)
			if r.Version == nil || len(r.Refused) != n-1 || r.Refused[served] != 0 || calls > most {
				t.Errorf("%d keys: %d refused, that of %s is %v, %d compilations", n, len(r.Refused), served, r.Refused[served], calls)
			}
			for ref := range r.Refused {
				if len(errorsOf(r, ref)) != 1 {
					t.Fatalf("%s has errors %q", ref, errorsOf(r, ref))
				}
			}
		}
		read(3, oldest)
		c.apply("Route a/r", noModels)
		read(2, oldest)
		c.apply("Backend a/other", backend)
		read(2, oldest)

		// When the one that is served goes, the next one is not refused any more.
		c.remove(oldest)
		n--
		read(4, source.ObjectRef{Kind: "APIKey", Namespace: "a", Name: fmt.Sprintf("k%03d", n)})
		read(2, source.ObjectRef{Kind: "APIKey", Namespace: "a", Name: fmt.Sprintf("k%03d", n)})
	}
}

// Endpoints that were found belong to the generation that they were found for.
func TestEndpoints(t *testing.T) {
	c, k, compileFn := base(t), NewKeeper(), compiler(t, nil)
	o := c.objects[c.apply("Backend a/b", backend)].(*v1alpha1.Backend)
	ref := source.RefOf(o)
	set := func(name, dialect string) *source.Objects {
		next := o.DeepCopy()
		next.Generation++
		next.Spec.URL, next.Spec.Dialect = "", dialect
		next.Spec.Service = &v1alpha1.ServiceBackend{Name: v1alpha1.ObjectName(name)}
		next.Spec.Service.Port.IntVal = 80
		o = next
		c.objects[ref] = o
		objs := c.read()
		objs.Endpoints[ref] = []v1alpha1.Endpoint{{Address: "10.0.0." + name[1:], Port: 80, Weight: 1}}
		return objs
	}
	expect(t, k.Compile(set("s1", "openai"), nil, compileFn), "Backend a/b:3, LLMGateway sys/main:1, Route a/r:1; refused: ")
	r := k.Compile(set("s1", "nonsense"), nil, compileFn)
	expect(t, r, "Backend a/b:3, LLMGateway sys/main:1, Route a/r:1; refused: Backend a/b older")
	if len(r.Objects.Endpoints) != 1 {
		t.Errorf("endpoints %v", r.Objects.Endpoints)
	}
	r = k.Compile(set("s2", "nonsense"), nil, compileFn)
	expect(t, r, "LLMGateway sys/main:1, Route a/r:1; refused: Backend a/b left out")
	if len(r.Objects.Endpoints) != 0 {
		t.Errorf("endpoints %v", r.Objects.Endpoints)
	}
}
