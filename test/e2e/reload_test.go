package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// TestReloadSpeed measures the time from a changed file to the first answer that obeys it.
func TestReloadSpeed(t *testing.T) {
	a := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	b := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	to := func(backend string) string { return harness.Route("all", "rules: [{backends: [{name: "+backend+"}]}]") }
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{{Name: "a", Sim: a}, {Name: "b", Sim: b}},
		Files:    map[string]string{"route.yaml": to("a")},
	})
	var took []time.Duration
	for i := range 10 {
		next := []string{"b", "a"}[i%2]
		start := time.Now()
		g.WriteFile("route.yaml", to(next))
		g.WaitFor("a request is served by "+next, func() bool {
			return send(t, g, lanes[0].message()).header.Get("x-weir-backend") == "default/"+next
		})
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("a change was live after %v at best, %v in the middle, %v at worst", took[0], took[len(took)/2], took[len(took)-1])
	if slowest := took[len(took)-1]; slowest > 5*time.Second {
		t.Errorf("a change took %v to be live", slowest)
	}
}

// moving is the part of a configuration that changes under load.
type moving struct {
	weight    int    // of one of two backends
	pool      string // name of the backend of the route "pool"
	spare     bool   // whether that route has a second backend
	flipped   bool   // whether the backend "flip" is an Anthropic one, at another address
	upstream  string // what the model "alias" is called by the backend
	extra     int    // number of routes that nobody uses
	firstByte int    // seconds
	oa, oa2   *harness.Sim
	an        *harness.Sim
}

func (m *moving) yaml() string {
	route := func(model, backends string) string {
		return harness.Route(model, fmt.Sprintf("rules: [{matches: [{models: [%s]}], backends: [%s], timeouts: {firstByte: %ds}}]", model, backends, m.firstByte))
	}
	backend := func(name string, s *harness.Sim, models ...string) string {
		return harness.Backend{Name: name, Sim: s, Models: models}.YAML()
	}
	pool := "{name: " + m.pool + ", model: gpt-4o}"
	docs := []string{backend(m.pool, m.oa, "gpt-4o"), backend("alias", m.oa, "alias="+m.upstream)}
	if m.spare {
		docs = append(docs, backend("spare", m.oa2, "gpt-4o"))
		pool += ", {name: spare, model: gpt-4o}"
	}
	flip := "{name: flip, model: gpt-4o}"
	if m.flipped {
		docs = append(docs, backend("flip", m.an, "claude-sonnet-4-5"))
		flip = "{name: flip, model: claude-sonnet-4-5}"
	} else {
		docs = append(docs, backend("flip", m.oa, "gpt-4o"))
	}
	docs = append(docs, route("pool", pool), route("flip", flip), route("alias", "{name: alias}"),
		route("weighted", fmt.Sprintf("{name: oa, model: gpt-4o, weight: %d}, {name: oa2, model: gpt-4o, weight: %d}", m.weight, 100-m.weight)))
	for i := range m.extra {
		docs = append(docs, route(fmt.Sprintf("extra-%d", i), "{name: oa, model: gpt-4o}"))
	}
	return harness.Join(docs...)
}

// TestReloadUnderLoad changes the configuration a hundred times, in every way that keeps it able to serve, while
// requests of every kind run. None may notice.
func TestReloadUnderLoad(t *testing.T) {
	pace := sim.Faults{IntervalMin: sim.Duration(time.Millisecond), IntervalMax: sim.Duration(4 * time.Millisecond)}
	oa := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: pace})
	oa2 := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: pace})
	an := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Faults: pace})
	ds := harness.NewSim(t, sim.Options{Dialect: sim.DashScope, Faults: pace})
	failing := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}}})
	m := &moving{weight: 50, pool: "pool-a", upstream: "gpt-4o", firstByte: 20, oa: oa, oa2: oa2, an: an}
	g := harness.Start(t, harness.Options{
		Backends: []harness.Backend{
			{Name: "oa", Sim: oa, Models: []string{"gpt-4o", "renamed=gpt-4o"}}, {Name: "oa2", Sim: oa2, Models: []string{"gpt-4o"}},
			{Name: "an", Sim: an, Models: []string{"claude-sonnet-4-5"}}, {Name: "ds", Sim: ds, Models: []string{"qwen-plus"}},
			{Name: "failing", Sim: failing, Models: []string{"gpt-4o"}},
			{Name: "absent", Dialect: "openai", URL: fmt.Sprintf("http://127.0.0.1:%d/v1", harness.FreePort(t)), Models: []string{"gpt-4o"}},
		},
		Documents: []string{
			harness.Route("all", "rules: [{backends: [{name: oa}, {name: an}, {name: ds}]}]"),
			harness.Route("fallback", `
rules:
  - matches: [{models: [fallback]}]
    backends:
      - {name: failing, model: gpt-4o}
      - {name: absent, model: gpt-4o, priority: 1}
      - {name: an, model: claude-sonnet-4-5, priority: 2}`),
		},
		Files: map[string]string{
			"moving.yaml": m.yaml(), "keys.yaml": harness.APIKey("rotated-0", "app", rotatedKey(0), ""), "pool-a.secret.txt": "rotated-upstream-secret-0",
			"pool-b.secret.txt": "rotated-upstream-secret-0", "spare.secret.txt": harness.BackendKey("spare"), "flip.secret.txt": harness.BackendKey("flip"),
			"alias.secret.txt": harness.BackendKey("alias"),
		},
	})
	envoy := g.EnvoyPID()

	var current atomic.Int64 // number of the key that callers use
	flows := streamed(append(slices.Clone(lanes),
		lane{name: "weighted", dialect: "openai", model: "weighted"}, lane{name: "pool", dialect: "openai", model: "pool"},
		lane{name: "flip", dialect: "openai", model: "flip"}, lane{name: "flip from anthropic", dialect: "anthropic", model: "flip"},
		lane{name: "alias", dialect: "anthropic", model: "alias"},
		lane{name: "fallback", dialect: "openai", model: "fallback"}, lane{name: "fallback from anthropic", dialect: "anthropic", model: "fallback"})...)
	for i := range flows {
		flows[i].key = func() string { return rotatedKey(int(current.Load())) }
	}
	tr := startTraffic(t, g, 8, flows)

	write := func() { g.WriteFile("moving.yaml", m.yaml()) }
	changes := []func(i int){
		func(i int) { m.weight = (i * 7) % 101; write() },
		func(int) { m.pool = map[string]string{"pool-a": "pool-b", "pool-b": "pool-a"}[m.pool]; write() },
		func(int) { m.spare = !m.spare; write() },
		func(int) { m.flipped = !m.flipped; write() },
		func(int) {
			m.upstream = map[string]string{"gpt-4o": "gpt-4o-mini", "gpt-4o-mini": "gpt-4o"}[m.upstream]
			write()
		},
		func(i int) { m.extra = i % 4; m.firstByte = 10 + i%20; write() },
		func(i int) { g.WriteFile(m.pool+".secret.txt", fmt.Sprintf("rotated-upstream-secret-%d", i)) },
		func(i int) { // the key before stays for those who have it still
			before := int(current.Load())
			g.WriteFile("keys.yaml", harness.Join(harness.APIKey(fmt.Sprintf("rotated-%d", before), "app", rotatedKey(before), ""),
				harness.APIKey(fmt.Sprintf("rotated-%d", i), "app", rotatedKey(i), "")))
		},
		func(i int) {
			g.WriteFile("gateway.yaml", harness.Listener(fmt.Sprintf("limits: {maxHeaderKiB: %d}", 32+i%32)))
		},
	}
	const total = 100
	var took []time.Duration
	for i := 1; i <= total; i++ {
		kind := i % len(changes)
		start := time.Now()
		g.Change(func() { changes[kind](i) })
		took = append(took, time.Since(start))
		if kind == 7 {
			current.Store(int64(i))
		}
	}
	tr.mustHaveServed(t, flows)
	slices.Sort(took)
	t.Logf("%d changes; live after %v in the middle, %v at worst", total, took[total/2], took[total-1])

	if problems := g.Status().Problems; len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	if g.EnvoyPID() != envoy {
		t.Error("Envoy has died")
	}
	if n := g.Metric("weir_config_nacks_total"); n != 0 {
		t.Errorf("Envoy has refused %v configurations", n)
	}
	g.WaitFor("nothing is kept for requests that have ended", func() bool { return g.Metric("weir_exchanges") == 0 })
	secrets := []string{harness.DefaultKey, harness.BackendKey("oa"), harness.BackendKey("an"), harness.BackendKey("flip"), "rotated-upstream-secret"}
	checkSecrets(t, g, append(secrets, rotatedKey(0), rotatedKey(int(current.Load())))...)
}

func rotatedKey(i int) string { return fmt.Sprintf("rotated-key-%012d", i) }

// TestReloadKeepsRunningStreams takes everything away that running streams came by: listener, route, backend and key. They
// finish all the same, and only new requests see the change.
func TestReloadKeepsRunningStreams(t *testing.T) {
	t.Parallel()
	g, _, _, _ := threeProviders(t, slow, harness.Options{})
	var streams []*openedStream
	for _, l := range lanes {
		streams = append(streams, openStream(t, g, l))
	}
	other := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Models: []string{"other"}})
	g.Change(func() {
		// First what is new, and what is gone last: each state of the folder is one that can be served.
		g.WriteBackend(harness.Backend{Name: "other", Sim: other})
		g.WriteFile("document-00.yaml", harness.Route("all", "rules: [{backends: [{name: other}]}]"))
		g.Remove("document-01.yaml")
		for _, name := range []string{"oa", "an", "ds"} {
			g.Remove("backend-" + name + ".yaml")
		}
		g.WriteFile("gateway.yaml", harness.Listener("limits: {maxHeaderKiB: 20}"))
		g.WriteFile("consumer.yaml", harness.Consumer("app", rotatedKey(1), ""))
	})
	g.WaitFor("the old key is refused", func() bool { return send(t, g, lanes[0].message()).status == http.StatusUnauthorized })
	l := lane{dialect: "openai", model: "gpt-4o"}
	m := l.message()
	m.credential = l.credential(rotatedKey(1))
	g.WaitFor("the old model is not served", func() bool { return send(t, g, m).status == http.StatusNotFound })
	if objects := g.Status().Objects; objects["Backend"] != 1 || objects["Route"] != 1 {
		t.Errorf("the objects are %v", objects)
	}
	for i, s := range streams {
		if err := s.rest(); err != nil {
			t.Errorf("%s: %v", lanes[i].name, err)
		}
	}
}

// TestReloadKeepsFallback takes away the backend that a running request has still to fall back on: a request lives in the
// configuration it began with.
func TestReloadKeepsFallback(t *testing.T) {
	t.Parallel()
	hung := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{Rules: []sim.Rule{{Kind: sim.Hang}}}})
	for _, dialect := range []sim.Dialect{sim.OpenAI, sim.Anthropic, sim.DashScope} {
		t.Run(string(dialect), func(t *testing.T) {
			spare := harness.NewSim(t, sim.Options{Dialect: dialect, Models: []string{"spare-1"}})
			g := harness.Start(t, harness.Options{
				Backends: []harness.Backend{{Name: "hung", Sim: hung, Models: []string{"gpt-4o"}}, {Name: "spare", Sim: spare}},
				Files: map[string]string{"route.yaml": harness.Route("all",
					"rules: [{backends: [{name: hung}, {name: spare, model: spare-1, priority: 1}], timeouts: {firstByte: 4s}}]")},
			})
			before := len(hung.Requests())
			var wg sync.WaitGroup
			for _, f := range streamed(lane{name: "openai", dialect: "openai", model: "gpt-4o"}, lane{name: "anthropic", dialect: "anthropic", model: "gpt-4o"}) {
				wg.Go(func() {
					if err := f.do(t, g, http.DefaultClient); err != nil {
						t.Errorf("%s: %v", f, err)
					}
				})
			}
			g.WaitFor("all wait for the first backend", func() bool { return len(hung.Requests()) == before+4 })
			g.Change(func() {
				g.WriteFile("route.yaml", harness.Route("all", "rules: [{backends: [{name: hung}]}]"))
				g.Remove("backend-spare.yaml")
			})
			if n := len(spare.Requests()); n != 0 {
				t.Errorf("%d requests have reached the second backend before it was taken away, so the test shows nothing", n)
			}
			wg.Wait()
			if n := len(spare.Requests()); n != 4 {
				t.Errorf("the second backend was asked %d times", n)
			}
		})
	}
}

// TestReloadRefusesWhatIsWrong breaks the folder in many ways. The mistake is named with its place, what was served stays
// served, and mending it is enough.
func TestReloadRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	g := harness.Start(t, harness.Options{
		Backends:  []harness.Backend{{Name: "up", Sim: up}},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
	})
	serves := func(t *testing.T) {
		t.Helper()
		if r := send(t, g, lanes[0].message()); r.status != http.StatusOK {
			t.Errorf("a request got %d: %s", r.status, r.body)
		}
	}
	certificate, key := weakCertificate(t)
	g.WriteFile("weak.crt.txt", certificate)
	g.WriteFile("weak.key.txt", key)
	before := g.Status().Configuration.Serving
	for _, c := range []struct {
		name, content string
		want          []string // parts of one problem
	}{
		{"broken YAML", "apiVersion: weir.dev/v1alpha1\nkind: Route\n  metadata: x\n", []string{"new.yaml:"}},
		{"tab", "apiVersion: weir.dev/v1alpha1\nkind:\n\tRoute\n", []string{"new.yaml:"}},
		{"no document", "just words\n", []string{"new.yaml:1"}},
		{"unknown kind", "apiVersion: weir.dev/v1alpha1\nkind: Rout\nmetadata: {name: x}\nspec: {}\n", []string{"new.yaml:", "Rout"}},
		{"unknown version", "apiVersion: weir.dev/v9\nkind: Route\nmetadata: {name: x}\nspec: {}\n", []string{"new.yaml:", "weir.dev/v9"}},
		{"unknown field", harness.Route("x", "rules:\n  - backends: [{name: up}]\n    retries: 3"), []string{"new.yaml:8", "spec.rules[0].retries"}},
		{"wrong type", harness.Route("x", "rules:\n  - backends:\n      - {name: up, weight: heavy}"), []string{"new.yaml:8", "spec.rules[0].backends[0].weight"}},
		{"out of range", harness.Route("x", "rules:\n  - backends:\n      - {name: up, weight: -1}"), []string{"new.yaml:8", "spec.rules[0].backends[0].weight"}},
		{"bad name", harness.Route("Not_A_Name", "rules: [{backends: [{name: up}]}]"), []string{"new.yaml:4", "metadata.name"}},
		{"rule of the schema (CEL)", harness.Document("Backend", "x", "dialect: openai\nurl: http://127.0.0.1:1/v1\nendpoints: [{address: 127.0.0.1, port: 1}]"),
			[]string{"new.yaml:", "Backend default/x", "exactly one of url, endpoints"}},
		{"unknown backend", harness.Route("x", "rules:\n  - backends:\n      - name: up\n      - name: nobody"),
			[]string{"new.yaml:9", "Route default/x", "spec.rules[0].backends[1].name", "nobody"}},
		{"unknown consumer", harness.APIKey("x", "nobody", "some-key-0123456789", ""), []string{"new.yaml:", "APIKey default/x", "nobody"}},
		{"unknown dialect", harness.Document("Backend", "x", "dialect: latin\nurl: http://127.0.0.1:1"), []string{"new.yaml:6", "spec.dialect", "latin"}},
		{"secret that is not there", harness.Backend{Name: "x", Dialect: "openai", URL: "http://127.0.0.1:1/v1"}.YAML(),
			[]string{"new.yaml:", "Backend default/x", "x.secret.txt"}},
		{"certificate whose key is too short", harness.Document("LLMGateway", "x", `
listeners:
  - name: tls
    port: 8443
    tls: {certificateRef: {file: weak.crt.txt}, privateKeyRef: {file: weak.key.txt}}`), []string{"new.yaml:9", "spec.listeners[0].tls", "2048"}},
		{"the same object twice", harness.Route("all", "rules: [{backends: [{name: up}]}]"), []string{".yaml:", "Route default/all"}},
		{"model that no backend has", harness.Route("x", "rules:\n  - matches: [{models: [unheard-of]}]\n    backends: [{name: up}]"),
			[]string{"new.yaml:7", "spec.rules[0].matches[0].models[0]", "unheard-of"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.WriteFile("new.yaml", c.content)
			g.WaitFor("a problem that says "+strings.Join(c.want, ", "), func() bool {
				return slices.ContainsFunc(g.Status().Problems, func(p string) bool {
					return !slices.ContainsFunc(c.want, func(part string) bool { return !strings.Contains(p, part) })
				})
			})
			s := g.Status()
			if s.Configuration.Serving != before {
				t.Errorf("version %s is served instead of %s", s.Configuration.Serving, before)
			}
			serves(t)
			g.Remove("new.yaml")
			g.WaitFor("no problem is left", func() bool { return len(g.Status().Problems) == 0 })
		})
	}

	t.Run("mended is live", func(t *testing.T) {
		g.WriteFile("new.yaml", harness.Route("x", "rules: [{matches: [{models: [new-name]}], backends: [{name: up, modle: gpt-4o}]}]"))
		g.WaitFor("the problem is told", func() bool { return len(g.Status().Problems) == 1 })
		g.WriteFile("new.yaml", harness.Route("x", "rules: [{matches: [{models: [new-name]}], backends: [{name: up, model: gpt-4o}]}]"))
		g.WaitFor("the mended route serves", func() bool {
			m := lanes[0].message()
			m.body = lanes[0].fields().set("model", `"new-name"`).String()
			return send(t, g, m).status == http.StatusOK
		})
		if s := g.Status(); len(s.Problems) > 0 || s.Configuration.Serving == before {
			t.Errorf("the status is %+v", s)
		}
	})

	t.Run("all files deleted", func(t *testing.T) {
		serving := g.Status().Configuration.Serving
		entries, err := os.ReadDir(g.Dir)
		if err != nil {
			t.Fatal(err)
		}
		kept := map[string]string{}
		for _, e := range entries {
			content, err := os.ReadFile(filepath.Join(g.Dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			kept[e.Name()] = string(content)
			g.Remove(e.Name())
		}
		g.WaitFor("a problem says that there is nothing", func() bool {
			return slices.ContainsFunc(g.Status().Problems, func(p string) bool { return strings.Contains(p, "no documents found") })
		})
		serves(t)
		if now := g.Status().Configuration.Serving; now != serving {
			t.Errorf("version %s is served instead of %s", now, serving)
		}
		if err := os.Remove(g.Dir); err != nil {
			t.Fatal(err)
		}
		g.WaitFor("a problem says that the folder is gone", func() bool {
			return slices.ContainsFunc(g.Status().Problems, func(p string) bool { return strings.Contains(p, "does not exist") })
		})
		serves(t)
		for name, content := range kept {
			g.WriteFile(name, content)
		}
		g.WaitFor("no problem is left", func() bool { return len(g.Status().Problems) == 0 })
		serves(t)
	})
}

// TestReloadThatEnvoyRefuses gives Envoy what Weir cannot know to be wrong. Both keep the last good version, say why, and
// take the next good one.
func TestReloadThatEnvoyRefuses(t *testing.T) {
	t.Parallel()
	up := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI})
	g := harness.Start(t, harness.Options{
		Backends:  []harness.Backend{{Name: "up", Sim: up}},
		Documents: []string{harness.Route("all", "rules: [{backends: [{name: up}]}]")},
	})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	second := func(address, port string) string {
		return harness.Document("LLMGateway", "e2e", "listeners:\n  - {name: http, address: 127.0.0.1, port: 8080}\n  - {name: second, address: "+address+", port: "+port+"}")
	}
	envoy := g.EnvoyPID()
	rejects := 0.0
	for _, c := range []struct {
		name, content, reason string
	}{
		{"port of another process", second("127.0.0.1", port), port},
		{"address of another machine", second("192.0.2.1", "8443"), "192.0.2.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := g.Status().Configuration.Serving
			g.WriteFile("gateway.yaml", c.content)
			rejects++
			g.WaitFor("the version is refused", func() bool { return g.Metric("weir_config_nacks_total") == rejects })
			s := g.Status().Configuration
			if s.Serving != before || s.Rejected == "" || s.Rejected == before || s.Pending != "" || !strings.Contains(s.Reason, c.reason) {
				t.Errorf("the status is %+v; version %s should be served and the reason name %s", s, before, c.reason)
			}
			t.Logf("the reason: %s", s.Reason)
			if r := send(t, g, lanes[0].message()); r.status != http.StatusOK {
				t.Errorf("a request got %d: %s", r.status, r.body)
			}
			// Another change on top of the mistake is refused as well, and a mended folder is taken.
			g.WriteFile("more.yaml", harness.Route("more", "rules: [{matches: [{models: [more]}], backends: [{name: up, model: gpt-4o}]}]"))
			rejects++
			g.WaitFor("the next version is refused", func() bool { return g.Metric("weir_config_nacks_total") == rejects })
			g.Change(func() { g.WriteFile("gateway.yaml", harness.Listener("")) })
			if s := g.Status().Configuration; s.Rejected != "" || s.Reason != "" {
				t.Errorf("after mending the status is %+v", s)
			}
			m := lanes[0].message()
			m.body = lanes[0].fields().set("model", `"more"`).String()
			if r := send(t, g, m); r.status != http.StatusOK {
				t.Errorf("a request to the new route got %d: %s", r.status, r.body)
			}
			g.Change(func() { g.Remove("more.yaml") })
		})
	}
	if g.EnvoyPID() != envoy {
		t.Error("Envoy has died")
	}
}
