package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// watchedGateway has everything that the console shows: a steered pool, two providers of different dialects, a fallback, a limit that
// refuses, a budget, and a warning in its configuration.
type watchedGateway struct {
	*harness.Gateway
	pool *gpu.Pool
}

const scarceLimit = "limits: [{name: rpm, unit: Requests, limit: 1, window: 1h}]"

func startWatched(t *testing.T, options ...func(*harness.Options)) *watchedGateway {
	t.Helper()
	// Slow enough that there is always something in flight, and that a stream can be seen to come.
	pace := sim.Faults{TTFT: 30 * sim.Duration(time.Millisecond), IntervalMin: sim.Duration(4 * time.Millisecond), IntervalMax: sim.Duration(8 * time.Millisecond)}
	openai := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: pace})
	anthropic := harness.NewSim(t, sim.Options{Dialect: sim.Anthropic, Faults: pace})
	broken := harness.NewSim(t, sim.Options{Dialect: sim.OpenAI, Faults: sim.Faults{Rules: []sim.Rule{{Kind: sim.Status, Status: 503}}}})
	dcgm := harness.FreePort(t)
	w := &watchedGateway{pool: quickGPUs(t, 3, gpu.Options{DCGMPort: dcgm, DCGMInterval: 200 * time.Millisecond, Profile: engine.Profiles()[0].Scaled(4)})}
	pool := steeredPool{name: "pool", servers: w.pool, backend: fmt.Sprintf("healthCheck: {path: /health, interval: 200ms, timeout: 200ms}\nmetrics: [{type: VLLM, interval: 200ms}, {type: DCGM, interval: 200ms, port: %d}]\n", dcgm)}
	o := harness.Options{
		Backends: []harness.Backend{
			{Name: "openai", Sim: openai, Spec: "models: [{name: gpt-4o, prices: [{input: '2.5', output: '10'}]}]\n", AnyModel: true},
			{Name: "anthropic", Sim: anthropic},
			{Name: "broken", Sim: broken},
		},
		Documents: []string{
			harness.Route("chat", "rules: [{matches: [{models: [gpt-4o]}], backends: [{name: openai}]}]"),
			harness.Route("claude", "rules: [{matches: [{models: ['claude-*']}], backends: [{name: anthropic}]}]"),
			harness.Route("chain", "rules: [{matches: [{models: [chain]}], backends: [{name: broken, model: gpt-4o}, {name: openai, model: gpt-4o, priority: 1}]}]"),
			harness.Route("pool", "rules: [{matches: [{models: [pool]}], backends: [{name: pool}], retry: {attempts: 3}}]"),
			harness.Route("scarce", "rules: [{matches: [{models: [scarce]}], backends: [{name: openai, model: gpt-4o}]}]"),
			limitPolicy("scarce", "{kind: Route, name: scarce}", scarceLimit),
			harness.Document("Budget", "month", "targetRefs: [{kind: Tenant, name: app}]\namount: 100\nperiod: Month\n"),
			pool.document(),
			harness.Document("LoadPolicy", "pool", "targetRefs: [{kind: Backend, name: pool}]\nhealth: {failedChecks: 2, warmUp: 0s}\n"),
		},
	}
	for _, change := range options {
		change(&o)
	}
	w.Gateway = harness.Start(t, o)
	return w
}

// trafficPace is the time from one request of traffic to the next.
const trafficPace = 120 * time.Millisecond

// traffic sends requests for the models in turn, or of every kind, a few a second, until the test ends.
func (w *watchedGateway) traffic(t *testing.T, models ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		pace := time.NewTicker(trafficPace)
		defer pace.Stop()
		if len(models) == 0 {
			models = []string{"pool", "gpt-4o", "pool", "claude-sonnet-4-5", "pool", "chain", "pool", "scarce", "unheard-of"}
		}
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
			running.Go(func() { w.send(ctx, models[n%len(models)], n) })
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
}

// send sends one request, and reads what comes.
func (w *watchedGateway) send(ctx context.Context, model string, n int) {
	body := fmt.Sprintf(`{"model":%q,"max_tokens":30,"stream":%t,"messages":[{"role":"user","content":"Question %d"}]}`, model, n%3 != 0, n)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("content-type", "application/json")
	if n%17 != 16 {
		req.Header.Set("authorization", "Bearer "+w.Key)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// live waits until the page is fed.
func (p *browserPage) live() {
	p.t.Helper()
	p.wait("the page to be live", `document.querySelector('.link.live')`)
}

// TestConsolePages opens every page on a gateway with traffic, in both themes: what it is for is there, and nothing on it keeps anybody out.
func TestConsolePages(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	w.traffic(t)
	p := newBrowserPage(t, w.AdminURL)
	pages := []struct {
		name, place string
		ready       func()
	}{
		{"topology", "topology", func() {
			p.shows(".node", "openai")
			p.shows(".node .rates", "req/s")
			p.shows(".targets", "fallback")
			p.wait("the GPUs to be reported", `document.querySelectorAll('.row-e .x-gpu').length === 3 && document.querySelector('.row-e .x-kv')`)
			p.wait("no column to stand out of its row", `[...document.querySelectorAll('.row-e > *:last-child')].every((c) => c.getBoundingClientRect().right <= c.parentElement.getBoundingClientRect().right)`)
			p.wait("lines with traffic", `document.querySelectorAll('.edge.ok, .edge.warn, .edge.bad').length >= 6`)
			p.shows(".deps", "ledger")
		}},
		{"topology-endpoint", "topology?node=" + "endpoint%3Adefault%2Fpool%7C" + strings.ReplaceAll(w.pool.Servers[0].Addr(), ":", "%3A"), func() {
			p.shows(".drawer h2", w.pool.Servers[0].Addr())
			p.shows(".drawer", "Weight, and why")
			p.shows(".drawer", "GPU memory")
			p.shows(".drawer", "Failure history")
		}},
		{"topology-backend", "topology?node=backend%3Adefault%2Fbroken", func() {
			p.shows(".drawer", "Failure history")
			p.wait("the chart of failures", `document.querySelector('.drawer .chart canvas')`)
		}},
		{"requests", "requests", func() {
			for _, outcome := range []string{"200", "429 refused", "2 attempts"} {
				p.shows(".req tbody", outcome)
			}
			p.wait("the table to leave room for the cost", `(() => { const t = document.querySelector('.requests .scroll'); return t.scrollWidth <= t.clientWidth; })()`)
		}},
		{"requests-one", "requests?q=chain", func() {
			p.click(".req a.open", ":")
			for _, text := range []string{"Path", "Wait for the answer", "Decision", "Attempt 1: broken", "Tokens and cost", "Trace ID"} {
				p.shows(".drawer", text)
			}
		}},
		{"usage", "usage", func() {
			p.shows(".sums", "app")
			p.wait("the chart of days", `document.querySelector('.chart canvas')`)
			p.shows("#budgets", "Budgets")
			p.shows(".limit", "month")
			p.shows(".limit", "refused")
		}},
		{"config", "config", func() { p.shows(".badge", "What is written is live") }},
		{"config-problems", "config/problems", func() { p.shows(".problems", "warning") }},
		{"config-objects", "config/objects?kind=Route", func() { p.shows(".code", "kind: Route") }},
		{"config-changes", "config/changes", func() { p.shows(".change", "live") }},
		{"playground", "playground", func() { p.wait("a model", `[...document.querySelectorAll('input')].some((i) => i.list && i.value)`) }},
		{"setup", "setup?client=claude-code", func() {
			p.shows(".code", "YOUR_WEIR_API_KEY")
			p.shows(".code", strings.TrimPrefix(w.URL, "http://"))
		}},
	}
	for _, page := range pages {
		t.Run(page.name, func(t *testing.T) {
			p.t = t
			defer func() { p.t = t }()
			for _, theme := range []string{"light", "dark"} {
				p.theme(theme)
				p.open(page.place)
				p.live()
				page.ready()
				p.accessible(t)
				p.shot("console-" + page.name + "-" + theme)
			}
		})
	}
	p.t = t
	t.Run("laptop", func(t *testing.T) {
		p.t = t
		for _, width := range []int64{1280, 1366} {
			p.size(width, 800)
			p.open("requests")
			p.live()
			p.shows(".req tbody", "refused")
			p.wait("the table to leave room for the cost", `(() => { const t = document.querySelector('.requests .scroll'); return t.scrollWidth <= t.clientWidth; })()`)
			p.shot(fmt.Sprint("console-laptop-requests-", width))
			p.open("topology")
			p.live()
			p.wait("no column to stand out of its row", `(() => { const c = [...document.querySelectorAll('.row-e > *:last-child')]; return c.length > 0 && c.every((x) => x.getBoundingClientRect().right <= x.closest('.pool').getBoundingClientRect().right); })()`)
			p.shot(fmt.Sprint("console-laptop-topology-", width))
		}
	})
	p.t = t
	t.Run("narrow", func(t *testing.T) {
		p.t = t
		p.size(375, 812)
		for _, place := range []string{"topology", "requests", "usage", "config", "config/objects", "playground", "setup"} {
			p.open(place)
			p.live()
			if over := evalPage[int](p, `document.documentElement.scrollWidth`) - 375; over > 0 {
				t.Errorf("%s is %d pixels wider than a telephone", place, over)
			}
			p.shot("console-narrow-" + strings.ReplaceAll(place, "/", "-"))
		}
	})
	p.t = t
}

// TestConsoleWatchesABackendDie: what happens to a server is on the page within its next seconds, and in its history, without a reload.
func TestConsoleWatchesABackendDie(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	w.traffic(t)
	p := newBrowserPage(t, w.AdminURL)
	victim := w.pool.Servers[1]
	row := fmt.Sprintf(`[data-node="endpoint:default/pool|%s"]`, victim.Addr())
	p.open("topology?node=endpoint%3Adefault%2Fpool%7C" + strings.ReplaceAll(victim.Addr(), ":", "%3A"))
	p.live()
	p.wait("the server to be well", fmt.Sprintf(`document.querySelector('%s.ok') && document.querySelector('.drawer .badge.ok')`, row))
	evalPage[bool](p, `(window.sameDocument = true)`)

	victim.Kill()
	p.wait("the server's mark to change", fmt.Sprintf(`document.querySelector('%s.bad')`, row))
	p.shows(row, "isolated")
	p.shows(".drawer .badge.bad", "isolated")
	p.wait("an event in its history", `document.querySelectorAll('.drawer .events li').length > 0`)
	p.shows(".drawer .events", "health checks failed")
	p.shows(".node.backend", "degraded")
	p.shot("console-backend-killed-light")
	p.accessible(t)
	p.theme("dark")
	p.shot("console-backend-killed-dark")

	must(t, victim.Revive())
	p.wait("the server to be well again", fmt.Sprintf(`document.querySelector('%s.ok')`, row))
	if !evalPage[bool](p, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
}

// TestConsolePlayground sends a streamed request, and shows what came and which way it took. The key stays in memory.
func TestConsolePlayground(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	p := newBrowserPage(t, w.AdminURL)
	p.open("playground")
	p.live()
	for _, c := range []struct{ dialect, model, backend string }{
		{"openai", "pool", "pool"}, {"responses", "gpt-4o", "openai"}, {"anthropic", "claude-sonnet-4-5", "anthropic"}, {"anthropic", "chain", "openai"},
	} {
		t.Run(c.dialect+" "+c.model, func(t *testing.T) {
			p.t = t
			set := `((label, value) => { const at = [...document.querySelectorAll('label')].find((l) => l.textContent === label); const i = document.getElementById(at.htmlFor);
				i.value = value; i.dispatchEvent(new Event(i.tagName === 'SELECT' ? 'change' : 'input', { bubbles: true })); return true; })`
			for _, field := range [][2]string{{"Dialect", c.dialect}, {"Model", c.model}, {"API key", w.Key}, {"Prompt", "Say something."}} {
				evalPage[bool](p, fmt.Sprintf("%s(%q, %q)", set, field[0], field[1]))
			}
			p.click("button.primary", "Send")
			p.shows(".answer .badge", "200 done")
			p.click(`[role="tab"]`, "Answer")
			p.wait("the text of the answer", `document.querySelector('.said').textContent.length > 10`)
			p.wait("counts of tokens", `/\d+ → \d+/.test(document.querySelector('.answer .figures').textContent)`)
			p.click(`[role="tab"]`, "Events")
			p.wait("raw events", `document.querySelector('.answer .code').textContent.split('\n').length > 3`)
			p.click(`[role="tab"]`, "Headers")
			p.shows(".headers", "x-request-id")
			p.click(`[role="tab"]`, "Path")
			p.shows(".in-path .path", c.backend)
			p.shows(".in-path", "Decision")
			p.wait("the end of the request", `document.querySelector('.in-path .badge.ok')`)
		})
	}
	p.t = t
	p.shot("console-playground-path")
	p.accessible(t)
	kept := evalPage[string](p, `JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])`)
	if strings.Contains(kept, w.Key) {
		t.Errorf("the key is kept: %s", kept)
	}
}

// TestConsoleByKeyboard walks through the console without a pointer.
func TestConsoleByKeyboard(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	w.traffic(t)
	p := newBrowserPage(t, w.AdminURL)
	p.open("topology")
	p.live()
	p.shows(".node", "pool")

	p.press(kb.Tab)
	if f := p.focused(); !strings.Contains(f, "Skip to the content") {
		t.Errorf("the first stop of Tab is %s", f)
	}
	p.press(kb.Enter)
	if f := p.focused(); !strings.HasPrefix(f, "MAIN|main") {
		t.Errorf("the skip link leads to %s", f)
	}
	p.press("?")
	p.wait("the shortcuts", `document.querySelector('dialog[open]')`)
	p.accessible(t)
	p.press(kb.Escape)
	p.wait("no shortcuts", `!document.querySelector('dialog')`)

	// A node of the topology: opened, and left again to where one was.
	p.tabTo(w.pool.Servers[0].Addr())
	p.press(kb.Enter)
	p.wait("the details to have the focus", `document.activeElement.closest('.drawer h2')`)
	p.press(kb.Escape)
	p.wait("no details", `!document.querySelector('.drawer')`)
	if f := p.focused(); !strings.Contains(f, w.pool.Servers[0].Addr()) {
		t.Errorf("after the details the focus is on %s", f)
	}

	p.press("g", "r")
	p.shows("h1", "Requests")
	p.shows(".req tbody", "chain")
	p.press(" ")
	p.shows("button[aria-pressed='true']", "Resume")
	p.press("/", "c", "h", "a", "i", "n")
	p.wait("only requests of the chain", `location.hash.includes('q=chain') && [...document.querySelectorAll('.req tbody tr')].every((r) => r.textContent.includes('chain'))`)
	p.tabTo("Request of")
	p.press(kb.ArrowDown, kb.ArrowUp, kb.Enter)
	p.shows(".drawer", "Decision")
	p.press(kb.Escape)

	p.press("g", "c")
	p.shows("h1", "Configuration")
	p.tabTo("Status")
	p.press(kb.ArrowRight)
	p.shows(`[role="tab"][aria-selected="true"]`, "Problems")
	p.press("g", "u")
	p.shows("h1", "Usage")
	p.press("g", "p")
	p.shows("h1", "Playground")
	p.press("g", "s")
	p.shows("h1", "Setup")
	p.press("g", "t")
	p.shows("h1", "Topology")
	p.tabTo("theme")
	p.press(kb.Enter)
	p.wait("the other theme", `document.documentElement.dataset.theme === 'dark'`)
	p.open("requests")
	p.wait("the theme to be remembered", `document.documentElement.dataset.theme === 'dark'`)
}

// TestConsoleLogin: where a login is needed the console asks for it, and says what is wrong.
func TestConsoleLogin(t *testing.T) {
	t.Parallel()
	const token = "console-token-0123456789-abcdefgh"
	w := startWatched(t, func(o *harness.Options) { o.Env = append(o.Env, "WEIR_ADMIN_TOKEN="+token) })
	p := newBrowserPage(t, w.AdminURL)
	for _, theme := range []string{"dark", "light"} {
		p.theme(theme)
		p.open("requests")
		p.shows("h1", "Log in")
		p.accessible(t)
		p.shot("console-login-" + theme)
	}
	p.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong-token-0123456789"))
	p.press(kb.Enter)
	p.wait("the reason", `document.querySelector('[role="alert"]')?.textContent`)
	p.expectTrouble("401")
	p.wait("an empty field", `(document.querySelector('#token').select(), true)`)
	p.do(chromedp.SendKeys(chromedp.CSS("#token"), token))
	p.press(kb.Enter)
	p.shows("h1", "Requests")
	p.live()
	p.click("button[aria-label='Log out']", "")
	p.shows("h1", "Log in")
	if kept := evalPage[string](p, `JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])`); strings.Contains(kept, token) {
		t.Errorf("the token is kept: %s", kept)
	}
}

// TestConsoleReconnects: while weir is away the page says so, and how old what it shows is; then it goes on.
func TestConsoleReconnects(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	p := newBrowserPage(t, w.AdminURL)
	p.lenient = true
	p.open("topology")
	p.live()
	evalPage[bool](p, `(window.sameDocument = true)`)
	w.Stop()
	p.shows(`.banner[role="alert"]`, "connection to Weir is lost")
	p.wait("what is old to look old", `document.querySelector('.frame.stale .live-data')`)
	p.shows(".node", "pool")
	p.accessible(t)
	p.shot("console-lost")
	w.Restart()
	p.live()
	p.wait("no banner", `!document.querySelector('.banner')`)
	if !evalPage[bool](p, `window.sameDocument === true`) {
		t.Error("the page was loaded again")
	}
}
