package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/usage/ledger"
)

// A native pair is two gateways of one configuration, but that one of them lets Envoy pass requests that Weir has decided in advance. Each
// has simulators of its own.
type nativePair struct {
	t      *testing.T
	native nativeSide
	other  nativeSide
}

type nativeSide struct {
	*harness.Gateway
	openai, second, anthropic *harness.Sim
	client                    *http.Client
}

func (s *nativeSide) sims() []*harness.Sim {
	return []*harness.Sim{s.openai, s.second, s.anthropic}
}

// used is how many requests Envoy has let through by itself.
func (s *nativeSide) used() float64 { return s.Metric("weir_lane_requests_total") }

// nativeDocuments are routes of every kind: one backend, a fallback, weights, another name for the model, another dialect, a match on a
// header, scopes, limits and a budget.
func nativeDocuments() []string {
	return []string{
		harness.Consumer("limited", "limited-key-0123456789", "tenant: limited"),
		harness.Consumer("scoped", "scoped-key-0123456789", "tenant: scoped\nscopes: [special]"),
		harness.Route("plain", "rules: [{matches: [{models: [gpt-4o]}], backends: [{name: openai}]}]"),
		harness.Route("fallback", "rules: [{matches: [{models: [gpt-4o-mini]}], backends: [{name: openai}, {name: second, priority: 1}]}]"),
		harness.Route("weights", "rules: [{matches: [{models: [gpt-4.1]}], backends: [{name: openai, weight: 3}, {name: second}]}]"),
		harness.Route("renamed", "rules: [{matches: [{models: [alias]}], backends: [{name: openai, model: gpt-4o}]}]"),
		harness.Route("translated", "rules: [{matches: [{models: [claude-sonnet-4-5]}], backends: [{name: anthropic}]}]"),
		harness.Route("team", "rules: [{matches: [{models: [gpt-4o], headers: [{name: X-Team, value: blue}]}], backends: [{name: second}]}]"),
		harness.Route("scoped", "rules: [{matches: [{models: [gpt-5]}], requiredScopes: [special], backends: [{name: openai}]}]"),
		harness.Route("embeddings", "rules: [{matches: [{models: [text-embedding-3-small]}], backends: [{name: openai}]}]"),
		harness.Document("LimitPolicy", "wide", `
targetRefs: [{kind: LLMGateway, name: e2e}]
per: Tenant
limits:
  - {name: requests, unit: Requests, limit: 100k, window: 1h}
  - {name: tokens, unit: TotalTokens, limit: 100M, window: 1h}
  - {name: parallel, unit: ConcurrentRequests, limit: 10k}
`),
		harness.Document("LimitPolicy", "narrow", `
targetRefs: [{kind: Tenant, name: limited}]
per: Tenant
limits:
  - {name: few, unit: Requests, limit: 150, window: 1h}
`),
		harness.Document("Budget", "month", `
targetRefs: [{kind: LLMGateway, name: e2e}]
per: Tenant
amount: 1M
period: Month
`),
	}
}

func newNativeSide(t *testing.T, lanes string) nativeSide {
	s := nativeSide{
		openai:    harness.NewSim(t, sim.Options{Dialect: sim.OpenAI}),
		second:    harness.NewSim(t, sim.Options{Dialect: sim.OpenAI}),
		anthropic: harness.NewSim(t, sim.Options{Dialect: sim.Anthropic}),
		client:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}},
	}
	prices := "prices: [{input: \"2.50\", output: \"10\"}]"
	s.Gateway = harness.Start(t, harness.Options{
		Listener: "nativeLane: " + lanes,
		Backends: []harness.Backend{
			{Name: "openai", Sim: s.openai, AnyModel: true, Spec: prices}, {Name: "second", Sim: s.second, AnyModel: true, Spec: prices},
			{Name: "anthropic", Sim: s.anthropic, AnyModel: true, Spec: prices},
		},
		Documents: nativeDocuments(),
	})
	return s
}

// nativeCase is a request, and how often it is sent.
type nativeCase struct {
	path, body string
	headers    []string // names and values in turn
	times      int
	// free says that its backend is drawn by weight.
	free bool
}

// randomNativeCase draws one: mostly requests that may go by the native lane, and everything that must not.
func randomNativeCase(r *rand.Rand) nativeCase {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	often := func(usual string, other ...string) string {
		if r.IntN(3) > 0 {
			return usual
		}
		return pick(other...)
	}
	c := nativeCase{path: "/v1/chat/completions", times: 1 + r.IntN(12)}
	model := pick("gpt-4o", "gpt-4o", "gpt-4o-mini", "gpt-4.1", "alias", "claude-sonnet-4-5", "gpt-5", "nobody-serves-this")
	text := strings.Repeat("word ", []int{1, 3, 40, 300, 3000}[r.IntN(5)])
	fields := []string{`"model":"` + model + `"`}
	switch r.IntN(6) {
	case 0:
		fields = append(fields, `"stream":true`)
	case 1:
		fields = append(fields, `"stream":true,"stream_options":{"include_usage":true}`)
	case 2:
		fields = append(fields, `"stream":false`)
	}
	if r.IntN(2) == 0 {
		fields = append(fields, often(`"max_tokens":64`, `"max_tokens":7`, `"max_completion_tokens":33`, `"max_tokens":"many"`))
	}
	if r.IntN(12) == 0 {
		fields = append(fields, pick(`"n":2`, `"model":"gpt-4o"`, `"Stream":true`, `"temperature":0.3`, `"user":"x\u0041"`))
	}
	content := `"` + text + `"`
	if r.IntN(16) == 0 {
		content = `[{"type":"text","text":"What is it?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + strings.Repeat("iVBORw0KGgo", 900) + `"}}]`
	}
	c.body = `{` + strings.Join(fields, ",") + `,"messages":[{"role":"user","content":` + content + `}]}`
	c.free = model == "gpt-4.1"
	switch r.IntN(14) {
	case 0:
		c.path, c.body, c.free = "/v1/embeddings", `{"model":"text-embedding-3-small","input":"`+text+`"}`, false
	case 1:
		c.path, c.body, c.free = "/v1/messages", `{"model":"`+pick("claude-sonnet-4-5", "gpt-4o")+`","max_tokens":32,"messages":[{"role":"user","content":"`+text+`"}]}`, false
		c.headers = append(c.headers, "anthropic-version", "2023-06-01")
	case 2:
		c.path = pick("/v1/chat/completions/", "/v1/chat/completions?tag=1", "/v1/nothing", "/v1//chat/completions")
	case 3:
		c.body = pick("", "[]", `{"model":`, c.body+"x", strings.Replace(c.body, `"gpt-4o"`, "7", 1))
	}
	c.headers = append(c.headers, "content-type", often("application/json", "application/json; charset=utf-8", "text/plain", "application/json; charset=latin1"))
	switch r.IntN(10) {
	case 0:
		c.headers = append(c.headers, "x-api-key", harness.DefaultKey)
	case 1:
		c.headers = append(c.headers, "authorization", "Bearer scoped-key-0123456789")
	case 2, 3:
		c.headers = append(c.headers, "authorization", "Bearer limited-key-0123456789")
	case 4:
		c.headers = append(c.headers, "authorization", pick("Bearer wrong-key-0123456789", "Basic eDp5", "Bearer "))
	case 5:
		c.headers = append(c.headers, "authorization", "Bearer "+harness.DefaultKey, "authorization", "Bearer limited-key-0123456789")
	default:
		c.headers = append(c.headers, "authorization", "Bearer "+harness.DefaultKey)
	}
	if r.IntN(6) == 0 {
		c.headers = append(c.headers, "x-team", pick("blue", "red", "blue,red"))
	}
	if r.IntN(3) == 0 {
		c.headers = append(c.headers, "traceparent", pick("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "00-nonsense-01"))
		if r.IntN(2) == 0 {
			c.headers = append(c.headers, "tracestate", "vendor=1")
		}
	}
	for _, h := range [...][2]string{
		{"x-weir-rule", "default/plain#0"}, {"x-weir-backend", "default/second"}, {"openai-organization", "org-1"}, {"accept-encoding", "gzip"},
		{"x-forwarded-for", "203.0.113.9"}, {"user-agent", "differential"}, {"x-envoy-max-retries", "9"},
	} {
		if r.IntN(12) == 0 {
			c.headers = append(c.headers, h[0], h[1])
		}
	}
	return c
}

// send sends it once.
func (c *nativeCase) send(t *testing.T, s *nativeSide) answer {
	t.Helper()
	req, err := http.NewRequest("POST", s.URL+strings.ReplaceAll(c.path, "//", "/%2F"), strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(c.headers); i += 2 {
		req.Header.Add(c.headers[i], c.headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// What two answers, and two requests to providers, may differ in by their nature.
var (
	nativeIDs     = regexp.MustCompile(`"(id|system_fingerprint|request_id|item_id)":"[^"]*"|"(created|created_at)":\d+`)
	nativeCached  = regexp.MustCompile(`"cached_tokens":\d+`)
	nativeIgnored = []string{"Date", "X-Request-Id", "Traceparent", "Connection"}
	nativeCounted = []string{"X-Ratelimit-Remaining-Requests", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Requests", "X-Ratelimit-Reset-Tokens"}
)

// comparable is what must be equal of an answer. How much remains of limits is told a moment late: that it is told must be equal.
func (c *nativeCase) comparable(a answer) (int, http.Header, string) {
	h := a.header.Clone()
	for _, name := range nativeIgnored {
		h.Del(name)
	}
	for _, name := range nativeCounted {
		if h.Get(name) != "" {
			h.Set(name, "some")
		}
	}
	if c.free { // each backend has a cache of its own
		h.Del("X-Weir-Backend")
		h.Del("Content-Length")
		a.body = nativeCached.ReplaceAllString(a.body, "")
	}
	if h.Get("Retry-After") != "" {
		h.Set("Retry-After", "some")
	}
	return a.status, h, regexp.MustCompile(`try again in \d+ s`).ReplaceAllString(nativeIDs.ReplaceAllString(a.body, ""), "")
}

// arrived is what the providers of a side have got since their requests of these numbers.
func (s *nativeSide) arrived(since []uint64) (out []sim.Record, now []uint64) {
	now = slices.Clone(since)
	for i, p := range s.sims() {
		for _, r := range p.Requests() {
			if r.ID > since[i] {
				out, now[i] = append(out, r), r.ID
			}
		}
	}
	return out, now
}

// comparableRecord is what must be equal of a request that a provider got.
func comparableRecord(r *sim.Record, free bool) map[string]any {
	h := r.Header.Clone()
	trace := h.Get("Traceparent")
	if len(trace) > 35 && strings.HasPrefix(trace, "00-0af7651916cd43dd8448eb211c80319c-") {
		trace = trace[:36] + trace[len(trace)-4:] // the caller's trace, the number of the attempt, the flags
	} else {
		trace = fmt.Sprint(len(trace))
	}
	for _, name := range nativeIgnored {
		h.Del(name)
	}
	h.Del("Host")
	out := map[string]any{"method": r.Method, "path": r.Path, "query": r.Query, "header": h, "trace": trace, "body": r.Body, "status": r.Status}
	if free {
		h.Del("Authorization")
		return out
	}
	out["credentials"] = r.Credentials
	return out
}

// TestNativeLane sends the same requests to two gateways, one of which lets Envoy pass those that were decided in advance. Answers, what
// providers get, and the ledgers must be equal.
func TestNativeLane(t *testing.T) {
	t.Parallel()
	p := nativePair{t: t, native: newNativeSide(t, "Auto"), other: newNativeSide(t, "Disabled")}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	atNative, atOther := make([]uint64, 3), make([]uint64, 3)
	requests := 0
	for range 200 {
		c := randomNativeCase(r)
		for range c.times {
			requests++
			a, b := c.send(t, &p.native), c.send(t, &p.other)
			status, header, body := c.comparable(a)
			otherStatus, otherHeader, otherBody := c.comparable(b)
			if status != otherStatus || body != otherBody || !reflect.DeepEqual(header, otherHeader) {
				t.Fatalf("%s %q %s\n native: %d %v\n%s\n  other: %d %v\n%s", c.path, c.headers, short(c.body), status, header, short(body), otherStatus, otherHeader, short(otherBody))
			}
			var got, want []sim.Record
			got, atNative = p.native.arrived(atNative)
			want, atOther = p.other.arrived(atOther)
			if len(got) != len(want) {
				t.Fatalf("%s %q %s: providers have got %d requests, and %d without lanes", c.path, c.headers, short(c.body), len(got), len(want))
			}
			for i := range got {
				x, y := comparableRecord(&got[i], c.free), comparableRecord(&want[i], c.free)
				if !reflect.DeepEqual(x, y) {
					t.Fatalf("%s %q %s\n a provider gets %v\n  without lanes %v", c.path, c.headers, short(c.body), x, y)
				}
			}
		}
	}
	p.sameLedgers()
	used := p.native.used()
	t.Logf("%d requests, %g of them by the native lane", requests, used)
	if used < float64(requests)/50 || p.other.used() != 0 { // how many there are depends on how busy the machine is
		t.Errorf("of %d requests %g went by the native lane, and %g where it is off", requests, used, p.other.used())
	}
}

func short(s string) string {
	if len(s) > 400 {
		return s[:400] + "..."
	}
	return s
}

// sameLedgers waits until both sides have entered everything, and compares.
func (p *nativePair) sameLedgers() {
	p.t.Helper()
	entries := func(s *nativeSide) []ledger.Entry {
		s.WaitFor("every request to be settled", func() bool { return s.Metric("weir_settlement_open_requests") == 0 })
		list := s.Ledger()
		slices.SortStableFunc(list, func(a, b ledger.Entry) int { return a.Time.Compare(b.Time) })
		return list
	}
	var a, b []ledger.Entry
	p.native.WaitFor("as many entries in both ledgers", func() bool {
		a, b = entries(&p.native), entries(&p.other)
		return len(a) == len(b)
	})
	for i := range a {
		x, y := a[i], b[i]
		for _, e := range []*ledger.Entry{&x, &y} {
			e.ID, e.RequestID, e.Duration, e.TTFT = "", "", 0, 0
			e.Time = e.Time.Truncate(1 << 62)
			if strings.HasSuffix(e.Route, "/weights") { // each backend has a cache of its own
				e.Backend, e.Tokens.Input, e.Tokens.CacheRead = "", e.Tokens.Input+e.Tokens.CacheRead, 0
			}
		}
		if !reflect.DeepEqual(x, y) {
			p.t.Errorf("entry %d of %d:\n native: %+v\n  other: %+v", i, len(a), x, y)
		}
	}
}

// TestNativeLimits: however many requests race for a limit, and by whatever lane, exactly the limit gets in.
func TestNativeLimits(t *testing.T) {
	t.Parallel()
	s := newNativeSide(t, "Auto")
	var in, refused atomic.Int64
	var wg sync.WaitGroup
	body := `{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}`
	for range 8 {
		wg.Go(func() {
			for range 50 {
				req, err := http.NewRequest("POST", s.URL+"/v1/chat/completions", bytes.NewBufferString(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("authorization", "Bearer limited-key-0123456789")
				req.Header.Set("content-type", "application/json")
				resp, err := s.client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				switch resp.StatusCode {
				case http.StatusOK:
					in.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
				default:
					t.Errorf("status %d", resp.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	if in.Load() != 150 || refused.Load() != 250 {
		t.Errorf("%d requests got in and %d were refused; the limit is 150 of 400", in.Load(), refused.Load())
	}
	if used := s.used(); used == 0 {
		t.Error("none of them went by the native lane")
	}
	s.WaitFor("every request to be settled", func() bool { return s.Metric("weir_settlement_open_requests") == 0 })
	if n := len(s.Ledger()); n != 150 {
		t.Errorf("the ledger has %d entries, want 150", n)
	}
}

// TestNativeChange: what a new version refuses is refused once it is live, whatever was decided in advance before.
func TestNativeChange(t *testing.T) {
	t.Parallel()
	s := newNativeSide(t, "Auto")
	c := nativeCase{path: "/v1/chat/completions", body: `{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}`,
		headers: []string{"content-type", "application/json", "authorization", "Bearer limited-key-0123456789"}}
	for i := range 4 {
		key := fmt.Sprintf("rotated-key-%d-0123456789", i)
		s.Change(func() { s.WriteFile("document-00.yaml", harness.Consumer("limited", key, "tenant: other")) })
		if a := c.send(t, &s); a.status != http.StatusUnauthorized {
			t.Fatalf("change %d: a key that is gone gets %d", i, a.status)
		}
		c.headers[3] = "Bearer " + key
		before := s.used()
		for range 20 {
			if a := c.send(t, &s); a.status != http.StatusOK {
				t.Fatalf("change %d: status %d: %s", i, a.status, a.body)
			}
		}
		s.WaitFor("requests to go by the native lane", func() bool { c.send(t, &s); return s.used() > before })
	}
}
