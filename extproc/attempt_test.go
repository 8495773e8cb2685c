package extproc

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

const chatBody = `{"model":"gpt-all","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hello"}],"max_tokens":50,"logit_bias":{"1":2}}`

// allTable has one rule whose chain goes through every dialect, and through one backend twice.
func allTable(t testing.TB) *table.Table {
	r := newRules(t)
	r.add("all", models("gpt-all"), choice{"openai", "renamed"}, choice{"anthropic", "claude"}, choice{"vllm", ""}, choice{"dashscope", "qwen-plus"}, choice{"openai", "gpt-4o"})
	return r.build()
}

// decided opens a request through the chain of every dialect, with its body.
func decided(t testing.TB, r *rig, h headerMap, peekStream bool, body string) *door {
	t.Helper()
	d := r.open(h, asks("gpt-all", peekStream))
	if got := setHeader(d.first, wire.RuleHeader); got != "chain-of-all" {
		t.Fatalf("goes to %q: %v", got, d.first)
	}
	resp := d.body(body)
	if resp.GetRequestBody() == nil {
		t.Fatalf("the body is refused: %s", resp.GetImmediateResponse().GetBody())
	}
	if resp.GetRequestBody().GetResponse().GetBodyMutation() != nil {
		t.Error("the door changes the body; attempts do")
	}
	return d
}

// sentBody is the body of an attempt: a new one, or the caller's.
func sentBody(resp *extprocv3.ProcessingResponse, callers string) string {
	common := resp.GetRequestHeaders().GetResponse()
	if common.GetStatus() == extprocv3.CommonResponse_CONTINUE_AND_REPLACE {
		return string(common.GetBodyMutation().GetBody())
	}
	return callers
}

func contentLength(resp *extprocv3.ProcessingResponse) string {
	return resp.GetDynamicMetadata().GetFields()[wire.AttemptNamespace].GetStructValue().GetFields()[wire.KeyContentLength].GetStringValue()
}

// TestAttemptsThroughEveryDialect walks a chain as Envoy does, which keeps one header map for all attempts: whatever the
// attempt before has set and removed, the next must send what its own backend wants and nothing else.
func TestAttemptsThroughEveryDialect(t *testing.T) {
	r := newRig(t, allTable(t))
	h := chatHeaders("openai-beta", "b-1", "openai-organization", "org-1", "x-dashscope-workspace", "w", "via", "1.1 x", "x-stainless-lang", "go", "accept-encoding", "gzip", "cookie", "a=b",
		"proxy-authorization", "Basic x", "user-agent", "test").with(":path", "/v1/chat/completions?trace=1")
	d := decided(t, r, h, false, chatBody)
	h = h.apply(d.first.GetRequestHeaders().GetResponse().GetHeaderMutation())

	always := []string{":method=POST", "content-type=application/json", "x-request-id=req-1", "user-agent=test", "x-weir-rule=chain-of-all", "x-weir-prepared=1"}
	openai := append([]string{"openai-beta=b-1", "x-stainless-lang=go"}, always...)
	steps := []struct {
		backend, model string
		headers        []string
		body           string // of what is sent, "" for any
	}{
		{"default/openai", "org/renamed-7b", append([]string{":path=/v1/chat/completions?trace=1", ":authority=api.openai.test", "authorization=Bearer provider-key-of-openai"}, openai...),
			strings.Replace(chatBody, "gpt-all", "org/renamed-7b", 1)},
		{"default/anthropic", "claude-sonnet-4-5", append([]string{":path=/v1/messages", ":authority=api.anthropic.test", "x-api-key=provider-key-of-anthropic", "anthropic-version=2023-06-01"}, always...), ""},
		{"default/vllm", "gpt-all", append([]string{":path=/pool/v1/chat/completions?trace=1", ":authority=10.0.0.1:8000"}, openai...), chatBody},
		{"default/dashscope", "qwen-plus", append([]string{":path=/api/v1/services/aigc/text-generation/generation", ":authority=dashscope.test", "authorization=Bearer provider-key-of-dashscope"}, always...), ""},
		{"default/openai", "gpt-4o", append([]string{":path=/v1/chat/completions?trace=1", ":authority=api.openai.test", "authorization=Bearer provider-key-of-openai"}, openai...),
			strings.Replace(chatBody, "gpt-all", "gpt-4o", 1)},
	}
	for i, step := range steps {
		resp := r.attempt(d.first, "chain/all", step.backend, h)
		common := resp.GetRequestHeaders().GetResponse()
		if common == nil {
			t.Fatalf("attempt %d: %v", i, resp)
		}
		h = h.apply(common.GetHeaderMutation())
		var got []string
		for _, kv := range h {
			if name := kv.GetKey(); name != "x-dashscope-sse" {
				got = append(got, name+"="+value(kv))
			}
		}
		slices.Sort(got)
		slices.Sort(step.headers)
		if !slices.Equal(got, step.headers) {
			t.Errorf("attempt %d sends\n  %q, want\n  %q", i, got, step.headers)
		}
		body := sentBody(resp, chatBody)
		var sent struct{ Model string }
		if err := json.Unmarshal([]byte(body), &sent); err != nil || sent.Model != step.model {
			t.Errorf("attempt %d asks for %q, want %q: %s", i, sent.Model, step.model, body)
		}
		if step.body != "" && body != step.body {
			t.Errorf("attempt %d sends\n  %s, want\n  %s", i, body, step.body)
		}
		if got := contentLength(resp); got != strconv.Itoa(len(body)) {
			t.Errorf("attempt %d: content-length %s for %d bytes", i, got, len(body))
		}
	}
	want := []string{"default/openai", "default/anthropic translated", "default/vllm", "default/dashscope translated", "default/openai"}
	if !slices.Equal(r.attempts, want) {
		t.Errorf("metrics were told %q, want %q", r.attempts, want)
	}
}

// TestHeadersInSeveralLines: the SDK of Anthropic sends a line for each beta, and an attempt must not lose one.
func TestHeadersInSeveralLines(t *testing.T) {
	b := newRules(t)
	b.add("claudes", models("claude"), choice{"anthropic", ""}, choice{"anthropic", "claude"})
	r := newRig(t, b.build())
	h := append(headersOf(":method", "POST", ":path", "/v1/messages", ":authority", "gateway.test", "content-type", "application/json",
		"x-api-key", demoKey, "anthropic-version", "2023-06-01"), headersOf("anthropic-beta", "one", "anthropic-beta", "two")...)
	d := r.open(h, asks("claude", false))
	d.body(`{"model":"claude","max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}`)
	for i := range 2 {
		h = h.apply(r.attempt(d.first, "chain/claudes", "default/anthropic", h).GetRequestHeaders().GetResponse().GetHeaderMutation())
		if got := h.get("anthropic-beta"); got != "one,two" && got != "one, two" {
			t.Errorf("attempt %d sends anthropic-beta %q", i, got)
		}
		if got := h.get("x-api-key"); got != "provider-key-of-anthropic" {
			t.Errorf("attempt %d sends x-api-key %q", i, got)
		}
	}
}

// TestCallersCredentialNeverLeaves with any header that carries it.
func TestCallersCredentialNeverLeaves(t *testing.T) {
	for _, name := range []string{"authorization", "x-api-key", "api-key", "x-goog-api-key"} {
		for _, backend := range []string{"openai", "anthropic", "vllm", "dashscope"} {
			r := newRig(t, allTable(t))
			v := demoKey
			if name == "authorization" {
				v = "ApiKey " + demoKey
			}
			h := chatHeaders().with("authorization", "").with(name, v)
			d := decided(t, r, h, false, chatBody)
			resp := r.attempt(d.first, "chain/all", "default/"+backend, h)
			for _, kv := range h.apply(resp.GetRequestHeaders().GetResponse().GetHeaderMutation()) {
				if strings.Contains(value(kv), demoKey) {
					t.Errorf("%s gets the caller's key in %s", backend, kv.GetKey())
				}
			}
		}
	}
}

func TestAttemptWithoutABody(t *testing.T) {
	r := newRig(t, doorTable(t))
	d := r.open(chatHeaders(), asks("gpt-pool", false))
	resp := r.attempt(d.first, "chain/pool", "default/vllm", chatHeaders())
	if common := resp.GetRequestHeaders().GetResponse(); common.GetStatus() != extprocv3.CommonResponse_CONTINUE || contentLength(resp) != "" {
		t.Errorf("an attempt whose body is never seen changes it: %v", resp)
	}
}

func TestAttemptsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name           string
		chain, backend string
		before         func(*rig, *door)
		status         int32
		says           string
	}{
		{"unknown chain", "chain/other", "default/openai", nil, 500, "backend that it cannot prepare"},
		{"backend of another chain", "chain/all", "default/other", nil, 500, "backend that it cannot prepare"},
		{"no backend", "chain/all", "", nil, 500, "backend that it cannot prepare"},
		{"released", "chain/all", "default/openai", func(r *rig, d *door) { r.server.Release(said(d.first, wire.KeyExchange)) }, 503, "was restarted"},
		{"all released", "chain/all", "default/openai", func(r *rig, d *door) { r.server.ReleaseAll() }, 503, "was restarted"},
		{"expired", "chain/all", "default/openai", func(r *rig, d *door) { r.advance(time.Hour); r.server.Sweep() }, 503, "was restarted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, allTable(t))
			d := decided(t, r, chatHeaders(), false, chatBody)
			if c.before != nil {
				c.before(r, d)
			}
			im := r.attempt(d.first, c.chain, c.backend, chatHeaders()).GetImmediateResponse()
			if int32(im.GetStatus().GetCode()) != c.status || !strings.Contains(string(im.GetBody()), c.says) || !json.Valid(im.GetBody()) {
				t.Errorf("got %d %s", im.GetStatus().GetCode(), im.GetBody())
			}
		})
	}
}

// TestAttemptOfAnotherProcess: what is decided by a process that is gone is refused in the caller's dialect, or in the default
// one where even that is not known.
func TestAttemptOfAnotherProcess(t *testing.T) {
	r := newRig(t, allTable(t))
	d := newRig(t, allTable(t)).open(chatHeaders("anthropic-version", "2023-06-01").with(":path", "/v1/messages"), asks("gpt-all", false))
	im := r.attempt(d.first, "chain/all", "default/openai", chatHeaders()).GetImmediateResponse()
	if im.GetStatus().GetCode() != 503 || !strings.HasPrefix(string(im.GetBody()), `{"type":"error"`) {
		t.Errorf("got %d %s", im.GetStatus().GetCode(), im.GetBody())
	}
	im = r.attempt(&extprocv3.ProcessingResponse{}, "chain/all", "default/openai", chatHeaders()).GetImmediateResponse()
	if im.GetStatus().GetCode() != 503 || !strings.HasPrefix(string(im.GetBody()), `{"error"`) {
		t.Errorf("got %d %s", im.GetStatus().GetCode(), im.GetBody())
	}
}

// TestBodiesThatCannotBeTranslated are refused at the door where every backend needs a translation.
func TestBodiesThatCannotBeTranslated(t *testing.T) {
	for _, body := range []string{``, `{`, `[]`, `{"model":"claude"}`, `{"model":"claude","messages":"x"}`, `{"model":"claude","messages":[{"role":"nobody","content":"x"}]}`} {
		r := newRig(t, doorTable(t))
		d := r.open(chatHeaders(), asks("claude", false))
		im := d.body(body).GetImmediateResponse()
		if im.GetStatus().GetCode() != 400 || !json.Valid(im.GetBody()) {
			t.Errorf("%s: %d %s", body, im.GetStatus().GetCode(), im.GetBody())
		}
		if n, _ := r.server.InFlight(); n != 0 {
			t.Errorf("%s: something is kept for a request that is refused", body)
		}
	}
}

func TestAttributes(t *testing.T) {
	for text, want := range map[string]string{
		`filter_metadata { key: "weir" value { fields { key: "backend" value { string_value: "ns/b" } } } }`:                        "ns/b",
		"filter_metadata {\n  key: \"weir\"\n  value {\n    fields {\n key: \"backend\"\n value {\n string_value:  \"ns/b\"\n }}}}": "ns/b",
		`filter_metadata { key: "weir" value { fields { key: "backend" value { string_value: "" } } } }`:                            "",
		``: "", `string_value:`: "", `string_value: ns/b`: "",
	} {
		s := attemptAttributes("chain/x", "")
		s.Fields[wire.HostMetadataAttribute].Kind = textValue(text)
		m := requestHeaders(nil, nil)
		m.Attributes = attributesOf(s)
		if chain, backend := attributes(read(t, m)); chain != "chain/x" || backend != want {
			t.Errorf("%q: chain %q, backend %q, want %q", text, chain, backend, want)
		}
	}
}
