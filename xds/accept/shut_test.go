package accept

import (
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/xds/source"
)

// shutBy names the policies that shut a request of a tenant out of a version.
func shutBy(t *testing.T, r Result, tenant, model string) string {
	t.Helper()
	if r.Version == nil {
		t.Fatalf("nothing is served: %v", r.Problems)
	}
	tb := r.Version.Table
	rule := tb.Find(&table.Request{Method: "POST", Path: "/v1/chat/completions", Model: model})
	if rule == nil {
		t.Fatal("there is no rule")
	}
	var out []string
	for _, p := range tb.Applying(nil, "sys/main", rule, &identity.Identity{Tenant: tenant}, model) {
		if p.Shut != "" {
			out = append(out, p.Shut)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestShutPolicies: of a limit that is not valid nobody knows what it lets through. The older generation says it; without one, nothing passes.
func TestShutPolicies(t *testing.T) {
	const valid = "{targetRefs: [{kind: Tenant, name: red}], amount: '10', period: Month}"
	const wrong = "{targetRefs: [{kind: Tenant, name: red}], amount: '10', period: Month, timeZone: Mars/Base}"
	compileFn := compiler(t, nil)
	c := base(t)
	budget := c.apply("Budget sys/month", valid)
	k := NewKeeper()
	if got := shutBy(t, k.Compile(c.read(), nil, compileFn), "red", "m"); got != "" {
		t.Errorf("a valid Budget shuts: %s", got)
	}
	c.apply("Budget sys/month", wrong)
	r := k.Compile(c.read(), nil, compileFn)
	expect(t, r, "Backend a/b:1, Budget sys/month:1, LLMGateway sys/main:1, Route a/r:1; refused: Budget sys/month older")
	if got := shutBy(t, r, "red", "m"); got != "" {
		t.Errorf("the older generation shuts: %s", got)
	}

	// A process that starts knows no older one.
	k = NewKeeper()
	for range 3 { // also while nothing changes
		objs := c.read()
		r = k.Compile(objs, nil, compileFn)
		expect(t, r, "Backend a/b:1, Budget sys/month:0, LLMGateway sys/main:1, Route a/r:1; refused: Budget sys/month shut")
		for tenant, want := range map[string]string{"red": "Budget sys/month", "blue": ""} {
			if got := shutBy(t, r, tenant, "m"); got != want {
				t.Errorf("tenant %s is shut out by %q, want %q", tenant, got, want)
			}
		}
		if again := k.Compile(objs, nil, compileFn); again.Version.ID != r.Version.ID {
			t.Errorf("the same reading is version %s, then %s", r.Version.ID, again.Version.ID)
		}
	}
	if got := errorsOf(r, budget); len(got) != 1 || !strings.HasPrefix(got[0], "spec.timeZone: ") {
		t.Errorf("errors %q", got)
	}
	c.apply("Budget sys/month", valid)
	if r = k.Compile(c.read(), nil, compileFn); shutBy(t, r, "red", "m") != "" || len(r.Refused) != 0 || len(k.shuts) != 0 {
		t.Errorf("mended: refused %v, %d remembered", r.Refused, len(k.shuts))
	}
}

// TestShutOrLeftOut: what refuses nobody shuts nobody out, nor does what covers what it may not.
func TestShutOrLeftOut(t *testing.T) {
	const limits = "limits: [{name: a, unit: Requests, limit: '0.5', window: 1m}]"
	for name, tc := range map[string]struct {
		object, spec string
		want         Kept
		shut         string // of m and other
	}{
		"a limit":              {"LimitPolicy sys/p", "{targetRefs: [{kind: LLMGateway, name: main}], " + limits + "}", Shut, "LimitPolicy sys/p, LimitPolicy sys/p"},
		"some models":          {"LimitPolicy sys/p", "{targetRefs: [{kind: LLMGateway, name: main}], models: [m], " + limits + "}", Shut, "LimitPolicy sys/p, "},
		"models that are none": {"LimitPolicy sys/p", "{targetRefs: [{kind: LLMGateway, name: main}], models: [' m'], limits: [{name: a, unit: Requests, limit: 5, window: 1m}]}", Shut, "LimitPolicy sys/p, LimitPolicy sys/p"},
		"in the shadow":        {"LimitPolicy sys/p", "{targetRefs: [{kind: LLMGateway, name: main}], mode: Shadow, " + limits + "}", LeftOut, ", "},
		"another's tenant":     {"LimitPolicy a/p", "{targetRefs: [{kind: Tenant, name: red}], " + limits + "}", LeftOut, ", "},
		"its own Route":        {"LimitPolicy a/p", "{targetRefs: [{kind: Route, name: r}], " + limits + "}", Shut, "LimitPolicy a/p, LimitPolicy a/p"},
	} {
		t.Run(name, func(t *testing.T) {
			c := base(t)
			ref := c.apply(tc.object, tc.spec)
			if got := NewKeeper().Compile(c.read(), nil, compiler(t, nil)).Refused[ref]; got != LeftOut {
				t.Errorf("the first generation is %s: it has never limited anything", got)
			}
			c.apply(tc.object, tc.spec)
			r := NewKeeper().Compile(c.read(), nil, compiler(t, nil))
			if r.Refused[ref] != tc.want {
				t.Errorf("it is %s, want %s: %v", r.Refused[ref], tc.want, r.Problems)
			}
			if got := shutBy(t, r, "red", "m") + ", " + shutBy(t, r, "red", "other"); got != tc.shut {
				t.Errorf("shut out by %q, want %q", got, tc.shut)
			}
			for _, o := range r.Objects.All() {
				if _, marked := o.GetAnnotations()[source.ShutAnnotation]; marked != (source.RefOf(o) == ref && tc.want == Shut) {
					t.Errorf("%s is marked: %v", source.RefOf(o), marked)
				}
			}
		})
	}
}

// TestShutWhatCannotBeRead: of a generation that the source cannot read it hands on what can be read, and says what is wrong.
func TestShutWhatCannotBeRead(t *testing.T) {
	const readable = "{targetRefs: [{kind: Tenant, name: red}], limits: [{name: a, unit: Requests, limit: 5, window: 1m}]}"
	c := base(t)
	ref := c.apply("LimitPolicy sys/p", readable)
	k := NewKeeper()
	k.Compile(c.read(), nil, compiler(t, nil))
	c.apply("LimitPolicy sys/p", readable)
	problems := []source.Problem{{Object: ref, Field: "spec.limits[0].unit", Message: "unsupported value", Reason: source.ReasonInvalid}}
	if r := k.Compile(c.read(), problems, compiler(t, nil)); r.Refused[ref] != Older || shutBy(t, r, "red", "m") != "" {
		t.Errorf("it is %s where the older generation is known", r.Refused[ref])
	}
	r := NewKeeper().Compile(c.read(), problems, compiler(t, nil))
	if r.Refused[ref] != Shut || shutBy(t, r, "red", "m") != "LimitPolicy sys/p" || shutBy(t, r, "blue", "m") != "" {
		t.Errorf("it is %s, and shuts out %q", r.Refused[ref], shutBy(t, r, "red", "m"))
	}
	if got := errorsOf(r, ref); len(got) != 1 {
		t.Errorf("errors %q", got)
	}
}
