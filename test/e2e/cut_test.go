package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
	"github.com/weir-dev/weir/usage/ledger"
)

// The budgets of these tests are for cutAt tokens of output, and streams would be cutLength long. A token costs 0.001.
const (
	cutAt     = 80
	cutLength = 600
	tokenCost = 1_000_000 // nano-units
	// cutSlack is how far from that a stream may end, in tokens: some are on their way when the budget is spent, and Weir
	// sees events and bytes, not tokens. The simulators' words in many scripts have more bytes than most.
	cutSlack = 40
)

// cutting is a gateway in front of slow simulators.
type cutting struct {
	*harness.Gateway
	sims map[string]*harness.Sim // by the name of the backend
	keys map[string]string       // by the name of the key
}

// cutKeys are callers with a budget each: one for each lane and kind of client.
func cutKeys() []string {
	var names []string
	for i := range lanes {
		names = append(names, fmt.Sprint("sdk-", i), fmt.Sprint("raw-", i))
	}
	return append(names, "free", "uncut", "single", "whole", "gone")
}

func startCutting(t *testing.T) *cutting {
	t.Helper()
	pace := sim.Faults{IntervalMin: sim.Duration(12 * time.Millisecond), IntervalMax: sim.Duration(18 * time.Millisecond)}
	c := &cutting{sims: map[string]*harness.Sim{}, keys: map[string]string{}}
	const price = "prices: [{input: \"0\", output: \"1000\"}]"
	var backends []harness.Backend
	for name, b := range map[string]struct {
		dialect sim.Dialect
		models  []string
	}{
		"oa": {sim.OpenAI, []string{"gpt-4o", "renamed=gpt-4o"}},
		"an": {sim.Anthropic, []string{"claude-sonnet-4-5"}},
		"ds": {sim.DashScope, []string{"qwen-plus"}},
	} {
		c.sims[name] = harness.NewSim(t, sim.Options{Dialect: b.dialect, Faults: pace})
		backends = append(backends, harness.Backend{Name: name, Sim: c.sims[name], Models: b.models, Spec: price})
	}
	docs := []string{harness.Route("all", "rules: [{backends: [{name: oa}, {name: an}, {name: ds}]}]")}
	var cut []string
	for _, name := range cutKeys() {
		c.keys[name] = "cut-key-of-" + name + "-0123456789"
		docs = append(docs, harness.APIKey(name, "app", c.keys[name], ""))
		if name != "free" && name != "uncut" {
			cut = append(cut, "{kind: APIKey, name: "+name+"}")
		}
	}
	amount := fmt.Sprintf("amount: \"%d.%03d\"\nperiod: Month\n", cutAt/1000, cutAt%1000)
	docs = append(docs,
		harness.Document("Budget", "cut", "targetRefs: ["+strings.Join(cut, ", ")+"]\nper: Credential\ncutStreams: true\n"+amount),
		harness.Document("Budget", "uncut", "targetRefs: [{kind: APIKey, name: uncut}]\nassumedOutputTokens: 10\n"+amount),
		harness.Consumer("team", "cut-key-of-team-0123456789", ""),
		harness.Document("Budget", "team", "targetRefs: [{kind: Consumer, name: team}]\ncutStreams: true\namount: \"0.400\"\nperiod: Day"))
	c.keys["team"] = "cut-key-of-team-0123456789"
	c.Gateway = harness.Start(t, harness.Options{Backends: backends, Documents: docs})
	if problems := c.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	return c
}

// cutPrompt asks for a long answer; name finds it with the provider.
func cutPrompt(name string) string {
	return fmt.Sprintf("The story of %s. in %d words.", name, cutLength)
}

// stream sends a streamed request of a lane.
func (c *cutting) stream(t *testing.T, key, name string, l lane, set ...[2]string) *http.Response {
	t.Helper()
	body := l.fields().set("stream", "true").set("max_tokens", fmt.Sprint(2*cutLength)).set("messages", `[{"role":"user","content":"`+cutPrompt(name)+`"}]`)
	for _, s := range set {
		body = body.set(s[0], s[1])
	}
	resp, err := http.DefaultClient.Do(request(t, c.Gateway, "POST", l.path(), l.dialect, body.String(), "authorization", "Bearer "+c.keys[key]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// served is what the provider has of a request.
func (c *cutting) served(t *testing.T, name string) sim.Record {
	t.Helper()
	var found sim.Record
	harness.WaitFor(t, "the provider has ended the answer to "+name, func() bool {
		for _, s := range c.sims {
			for _, r := range s.Requests() {
				if strings.Contains(r.Body, cutPrompt(name)) {
					found = r
					return r.End != sim.Running
				}
			}
		}
		return false
	})
	return found
}

// entries of a key in the ledger, as soon as there are so many.
func (c *cutting) entries(t *testing.T, key string, n int) []ledger.Entry {
	t.Helper()
	var out []ledger.Entry
	c.WaitFor(fmt.Sprintf("the ledger has %d of %s", n, key), func() bool {
		out = out[:0]
		for _, e := range c.Ledger() {
			if e.Credential == "key:"+key {
				out = append(out, e)
			}
		}
		return len(out) >= n
	})
	return out
}

func TestCutStreams(t *testing.T) {
	t.Parallel()
	c := startCutting(t)
	t.Run("lanes", func(t *testing.T) {
		var all sync.WaitGroup
		defer all.Wait()
		for i, l := range lanes {
			all.Go(func() { t.Run(l.name+" by SDK", func(t *testing.T) { testCutSDK(t, c, fmt.Sprint("sdk-", i), l) }) })
			all.Go(func() { t.Run(l.name+" raw", func(t *testing.T) { testCutRaw(t, c, fmt.Sprint("raw-", i), l) }) })
		}
		all.Go(func() { t.Run("parallel streams", func(t *testing.T) { testCutTogether(t, c) }) })
		all.Go(func() { t.Run("not cut", func(t *testing.T) { testNotCut(t, c) }) })
		all.Go(func() { t.Run("not a stream", func(t *testing.T) { testWholeAnswer(t, c) }) })
		all.Go(func() { t.Run("caller leaves", func(t *testing.T) { testLeavesBeforeCut(t, c) }) })
	})
	quiet(t, c.Gateway)
	for name, s := range c.sims {
		harness.WaitFor(t, "no answer runs at "+name, func() bool { return s.Stats().Running == 0 })
	}
	if l := c.Logs(); strings.Contains(l, "Envoy ended") || strings.Contains(l, "panic") {
		t.Error("something died")
	}
}

// checkCut: the provider was stopped in time, the ledger says what was served and that it was cut, and nothing more is let in.
func checkCut(t *testing.T, c *cutting, key string, l lane) ledger.Entry {
	t.Helper()
	r := c.served(t, key)
	if r.End != sim.Aborted || r.Tokens < cutAt-cutSlack || r.Tokens > cutAt+cutSlack {
		t.Errorf("the provider wrote %d tokens and ended as %q; the budget is for %d", r.Tokens, r.End, cutAt)
	}
	e := c.entries(t, key, 1)[0]
	if !e.Flags.Cut || !e.Flags.Estimated || e.Status != http.StatusOK || e.Flags.Interrupted {
		t.Errorf("the entry is %+v", e)
	}
	if n := e.Tokens.OutputTotal(); n < cutAt || n > int64(r.Tokens)+cutSlack || e.Cost != n*tokenCost {
		t.Errorf("the ledger has %d tokens for %d nano-units; the provider wrote %d", n, e.Cost, r.Tokens)
	}
	quiet(t, c.Gateway)
	resp := c.stream(t, key, key+"-again", l)
	body, _ := io.ReadAll(resp.Body)
	checkSpent(t, l.dialect, answer{resp.StatusCode, resp.Header, string(body)}, "default/cut")
	return e
}

// testCutSDK: to the official SDK a stream that is cut is one that has reached a limit of its length.
func testCutSDK(t *testing.T, c *cutting, key string, l lane) {
	for _, caller := range callers(c.URL, c.keys[key]) {
		if caller.dialect() != l.dialect {
			continue
		}
		r, err := caller.ask(t.Context(), ask{model: l.model, turns: user(cutPrompt(key)), max: 2 * cutLength, stream: true})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"openai": "length", "anthropic": "max_tokens"}[l.dialect]
		if r.finish != want || r.text == "" {
			t.Errorf("finish reason %q after %d bytes, want %q", r.finish, len(r.text), want)
		}
		e := checkCut(t, c, key, l)
		if got := e.Tokens.OutputTotal(); r.output != got || int64(r.pieces) > got {
			t.Errorf("the caller was told of %d tokens in %d pieces; the ledger has %d", r.output, r.pieces, got)
		}
	}
}

// testCutRaw: the bytes of a stream that is cut are whole events, in the order of their dialect.
func testCutRaw(t *testing.T, c *cutting, key string, l lane) {
	resp := c.stream(t, key, key, l)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("the stream breaks off: %v", err)
	}
	events := readEvents(t, string(body))
	if l.dialect == "anthropic" {
		checkMessageEvents(t, events)
	} else {
		checkChunks(t, events)
	}
	checkCut(t, c, key, l)
}

// streamEvent is a server-sent event; data is nil for OpenAI's [DONE].
type streamEvent struct {
	name, raw string
	data      map[string]any
}

func readEvents(t *testing.T, stream string) (out []streamEvent) {
	t.Helper()
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	if !strings.HasSuffix(stream, "\n\n") {
		t.Errorf("the stream ends within an event: %q", stream[max(0, len(stream)-200):])
	}
	for _, text := range strings.Split(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		var e streamEvent
		in := bufio.NewScanner(strings.NewReader(text))
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			field, value, _ := strings.Cut(in.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "event":
				e.name = value
			case "data":
				e.raw += value
			}
		}
		if e.raw == "" {
			continue // a comment
		}
		if e.raw != "[DONE]" {
			if err := json.Unmarshal([]byte(e.raw), &e.data); err != nil {
				t.Fatalf("the event %q is no JSON: %v", e.raw, err)
			}
		}
		out = append(out, e)
	}
	return out
}

// checkMessageEvents: blocks open and close one after the other, then comes why it stopped, then the end.
func checkMessageEvents(t *testing.T, events []streamEvent) {
	t.Helper()
	open, next, reason := -1, 0, ""
	var order []string
	for i, e := range events {
		kind, _ := e.data["type"].(string)
		if e.name != kind {
			t.Errorf("event %q of type %q", e.name, kind)
		}
		index := -1
		if n, ok := e.data["index"].(float64); ok {
			index = int(n)
		}
		switch kind {
		case "message_start":
			if i != 0 {
				t.Errorf("message_start is event %d", i)
			}
		case "content_block_start":
			if open >= 0 || index != next {
				t.Errorf("block %d starts while %d is open and %d is next", index, open, next)
			}
			open, next = index, next+1
		case "content_block_delta":
			if index != open {
				t.Errorf("a delta of block %d while %d is open", index, open)
			}
		case "content_block_stop":
			if index != open {
				t.Errorf("block %d stops while %d is open", index, open)
			}
			open = -1
		case "message_delta":
			delta, _ := e.data["delta"].(map[string]any)
			reason, _ = delta["stop_reason"].(string)
			usage, _ := e.data["usage"].(map[string]any)
			if n, _ := usage["output_tokens"].(float64); n < cutAt {
				t.Errorf("usage %v", usage)
			}
		}
		if kind != "content_block_delta" && kind != "ping" {
			order = append(order, kind)
		}
	}
	if open >= 0 || reason != "max_tokens" || !slices.Equal(order[max(0, len(order)-3):], []string{"content_block_stop", "message_delta", "message_stop"}) {
		t.Errorf("it ends with block %d open, stop_reason %q, events %v", open, reason, order)
	}
}

// checkChunks: one chunk says why it stopped, after all text, and [DONE] is the end. Nobody asked for usage.
func checkChunks(t *testing.T, events []streamEvent) {
	t.Helper()
	reason, ids := "", map[any]bool{}
	for i, e := range events {
		if e.data == nil {
			if i != len(events)-1 {
				t.Errorf("[DONE] is event %d of %d", i+1, len(events))
			}
			continue
		}
		ids[e.data["id"]] = true
		if e.data["usage"] != nil {
			t.Errorf("a chunk with usage that nobody asked for: %s", e.raw)
		}
		choices, _ := e.data["choices"].([]any)
		if len(choices) != 1 {
			t.Errorf("a chunk with %d choices: %s", len(choices), e.raw)
			continue
		}
		choice, _ := choices[0].(map[string]any)
		if reason != "" {
			t.Errorf("a chunk after the one with the finish reason: %s", e.raw)
		}
		reason, _ = choice["finish_reason"].(string)
	}
	if last := events[len(events)-1]; reason != "length" || last.data != nil || len(ids) != 1 {
		t.Errorf("finish reason %q, the last event is %q, ids %v", reason, last.raw, ids)
	}
}

// testCutTogether: streams that run at the same time share what is left.
func testCutTogether(t *testing.T, c *cutting) {
	var all sync.WaitGroup
	var names []string
	for i, l := range lanes {
		name := fmt.Sprint("team-", i)
		names = append(names, name)
		resp := c.stream(t, "team", name, l)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d of %s", resp.StatusCode, l.name)
		}
		all.Go(func() {
			body, err := io.ReadAll(resp.Body)
			if end := map[string]string{"openai": "data: [DONE]\n\n", "anthropic": "event: message_stop"}[l.dialect]; err != nil || !strings.Contains(string(body), end) {
				t.Errorf("%s: the stream has no end: %v", l.name, err)
			}
		})
	}
	all.Wait()
	wrote := 0
	for _, name := range names {
		r := c.served(t, name)
		if r.End != sim.Aborted {
			t.Errorf("%s ended as %q after %d tokens", name, r.End, r.Tokens)
		}
		wrote += r.Tokens
	}
	counted, cut := int64(0), 0
	for _, e := range c.entries(t, "team", len(lanes)) {
		counted += e.Cost
		cut += btoi(e.Flags.Cut)
	}
	if wrote < 400-cutSlack*len(lanes)/2 || wrote > 400+cutSlack*len(lanes) || counted < 400*tokenCost || counted > 450*tokenCost || cut != len(lanes) {
		t.Errorf("%d streams wrote %d tokens and cost %d nano-units, for a budget of 400 tokens; %d were cut", len(lanes), wrote, counted, cut)
	}
}

// testNotCut: without cutStreams, and without a budget, streams run to their end.
func testNotCut(t *testing.T, c *cutting) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, key := range []string{"free", "uncut"} {
		all.Go(func() {
			l := lanes[0]
			body := l.fields().without("max_tokens").set("stream", "true").set("messages", `[{"role":"user","content":"The story of `+key+`. in 100 words."}]`)
			a := do(t, http.DefaultClient, request(t, c.Gateway, "POST", l.path(), l.dialect, body.String(), "authorization", "Bearer "+c.keys[key]))
			text, ended, err := streamText(a.body)
			if a.status != http.StatusOK || !ended || err != nil || len(strings.Fields(text)) < 60 || !strings.Contains(a.body, `"finish_reason":"stop"`) {
				t.Errorf("%s: status %d, ended %v, %d words (%v)", key, a.status, ended, len(strings.Fields(text)), err)
			}
			if e := c.entries(t, key, 1)[0]; e.Flags.Cut || e.Tokens.Output != 100 || e.Cost != 100*tokenCost {
				t.Errorf("the entry of %s is %+v", key, e)
			}
			if key == "uncut" {
				quiet(t, c.Gateway)
				resp := c.stream(t, key, key, l, [2]string{"max_tokens", "5"})
				text, _ := io.ReadAll(resp.Body)
				checkSpent(t, l.dialect, answer{resp.StatusCode, resp.Header, string(text)}, "default/uncut")
			}
		})
	}
}

// testWholeAnswer: an answer in one piece cannot be cut, so its largest output must fit.
func testWholeAnswer(t *testing.T, c *cutting) {
	for _, dialect := range []string{"openai", "anthropic"} {
		ask := func(max int) answer {
			return do(t, http.DefaultClient, request(t, c.Gateway, "POST", chatPath(dialect), dialect,
				limitedBody("gpt-4o", fmt.Sprintf(`"max_tokens":%d`, max)), "authorization", "Bearer "+c.keys["whole"]))
		}
		if msg := checkError(t, dialect, ask(cutAt+1), http.StatusTooManyRequests); !strings.Contains(msg, "default/cut") {
			t.Errorf("%q", msg)
		}
		a := ask(10)
		must200(t, "one that fits", a.status, a.body)
	}
}

// testLeavesBeforeCut: a caller who leaves a watched stream pays for what came, and the rest stays free.
func testLeavesBeforeCut(t *testing.T, c *cutting) {
	l := lanes[0]
	ctx, leave := context.WithCancel(t.Context())
	body := l.fields().set("stream", "true").set("max_tokens", "500").set("messages", `[{"role":"user","content":"`+cutPrompt("gone")+`"}]`)
	resp, err := http.DefaultClient.Do(request(t, c.Gateway, "POST", l.path(), l.dialect, body.String(), "authorization", "Bearer "+c.keys["gone"]).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for range 20 {
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	if r := c.served(t, "gone"); r.End != sim.Aborted || r.Tokens > cutAt {
		t.Errorf("the provider wrote %d tokens and ended as %q", r.Tokens, r.End)
	}
	e := c.entries(t, "gone", 1)[0]
	if e.Flags.Cut || !e.Flags.Aborted || e.Tokens.OutputTotal() > cutAt || e.Tokens.OutputTotal() < 5 {
		t.Errorf("the entry is %+v", e)
	}
}
