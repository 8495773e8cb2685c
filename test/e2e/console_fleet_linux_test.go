package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/weir-dev/weir/test/e2e/harness"
)

const (
	// crowdPools Backends have crowdSize endpoints together.
	crowdPools, crowdSize = 4, 1000
	// mostNodes the page may have, of a fleet of any size.
	mostNodes = 4000
	// mostRows of endpoints.
	mostRows = 60
)

// manyServers answers for a thousand inference servers, each with an address of its own on the loopback network and all on one port.
func manyServers(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			w.Header().Set("content-type", "text/plain; version=0.0.4; charset=utf-8")
			const labels = `{engine="0",model_name="m"}`
			fmt.Fprintf(w, "vllm:num_requests_running%s %d.0\nvllm:num_requests_waiting%s %d.0\nvllm:kv_cache_usage_perc%s %g\n",
				labels, rand.IntN(20), labels, rand.IntN(4), labels, 0.3+0.6*rand.Float64())
		default:
			w.Header().Set("content-type", "application/json")
			fmt.Fprint(w, `{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}`)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

// crowdAddress is that of the i-th server.
func crowdAddress(i int) string { return fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250) }

// TestConsoleOfAThousandEndpoints: the page shows a fleet without a node for each of its members, finds any of them at once, and draws
// again only what has changed.
func TestConsoleOfAThousandEndpoints(t *testing.T) {
	port := manyServers(t)
	var docs []string
	for p := range crowdPools {
		var list []string
		for i := range crowdSize / crowdPools {
			list = append(list, fmt.Sprintf("{address: %s, port: %d}", crowdAddress(p*crowdSize/crowdPools+i), port))
		}
		name := fmt.Sprintf("pool-%d", p+1)
		docs = append(docs,
			harness.Document("Backend", name, "dialect: openai\nbasePath: /v1\nmodels: [{name: "+name+"}]\nmetrics: [{type: VLLM, interval: 5s}]\nendpoints: ["+strings.Join(list, ", ")+"]\n"),
			harness.Document("LoadPolicy", name, "targetRefs: [{kind: Backend, name: "+name+"}]\n"),
			harness.Route(name, "rules: [{matches: [{models: ["+name+"]}], backends: [{name: "+name+"}]}]"))
	}
	w := &watchedGateway{Gateway: harness.Start(t, harness.Options{Documents: docs})}
	w.traffic(t, "pool-1", "pool-2", "pool-3", "pool-1")
	p := newBrowserPage(t, w.AdminURL)
	nodes := func(when string) {
		t.Helper()
		n, rows := evalPage[int](p, `document.querySelectorAll('*').length`), evalPage[int](p, `document.querySelectorAll('.row-e').length`)
		t.Logf("%s: %d nodes, %d rows of endpoints", when, n, rows)
		if n > mostNodes || rows > mostRows || rows == 0 {
			t.Errorf("%s the page has %d nodes and %d rows of endpoints; %d and %d are the most", when, n, rows, mostNodes, mostRows)
		}
	}
	for _, theme := range []string{"light", "dark"} {
		p.theme(theme)
		p.open("topology")
		p.live()
		p.shows(".toolbar", "1,000 endpoints")
		p.shows(".row-e .x-kv", "%")
		p.wait("a map of each pool", `document.querySelectorAll('.map canvas').length === 4`)
		p.wait("lines with traffic", `document.querySelectorAll('.edge.ok').length >= 6`)
		p.accessible(t)
		p.shot("console-thousand-" + theme)
	}
	nodes("at first")

	// A few seconds of what the gateway tells: only rows in sight are touched, and the lists are not made again.
	changed := evalPage[struct{ Seconds, Added, Removed int }](p, `new Promise((done) => {
		const seen = { seconds: 0, added: 0, removed: 0 };
		const rows = new MutationObserver((list) => { for (const m of list) { seen.added += m.addedNodes.length; seen.removed += m.removedNodes.length; } });
		document.querySelectorAll('.pool .rows').forEach((el) => rows.observe(el, { childList: true }));
		const clock = new MutationObserver(() => { if (++seen.seconds === 4) { rows.disconnect(); clock.disconnect(); done(seen); } });
		clock.observe(document.querySelector('.link .num'), { characterData: true, childList: true, subtree: true });
	})`)
	if changed.Added+changed.Removed > crowdPools*6 {
		t.Errorf("in %d seconds %d rows were added and %d removed", changed.Seconds, changed.Added, changed.Removed)
	}

	p.click(".pool .button", "Show all 250")
	p.wait("the whole list", `document.querySelector('.virtual')`)
	nodes("with a whole list")
	evalPage[bool](p, `(document.querySelector('.virtual .node-name').focus(), true)`)
	p.press(kb.End)
	p.wait("the end of the list", fmt.Sprintf(`document.activeElement.textContent.startsWith(%q)`, crowdAddress(249)))
	p.accessible(t)
	nodes("at its end")

	p.press("/")
	p.press(strings.Split(crowdAddress(777), "")...)
	p.shows(".toolbar", "1 backend, 1 endpoint")
	p.shows(".row-e", crowdAddress(777))
	nodes("with a filter")
	p.shot("console-thousand-filter")
	p.tabTo(crowdAddress(777))
	p.press(kb.Enter)
	p.shows(".drawer h2", crowdAddress(777))
	t.Logf("tasks of more than 50 ms while the page was watched: %d", evalPage[int](p, `new Promise((done) => {
		const o = new PerformanceObserver((l) => { o.disconnect(); done(l.getEntries().length); });
		o.observe({ type: 'longtask', buffered: true });
		setTimeout(() => done(0), 1000);
	})`))
}
