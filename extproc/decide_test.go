package extproc

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// doorTable has a rule for each way a request can go.
func doorTable(t testing.TB) *table.Table {
	r := newRules(t)
	r.add("direct", models("gpt-4o"), choice{"openai", ""})
	r.add("renamed", models("renamed"), choice{"openai", ""})
	r.add("alias", models("smart"), choice{"openai", "gpt-4o"})
	r.add("fallback", models("gpt-both"), choice{"openai", "gpt-4o"}, choice{"vllm", "gpt-both"})
	r.add("pool", models("gpt-pool"), choice{"vllm", ""}, choice{"vllm", ""})
	r.add("translated", models("claude"), choice{"anthropic", ""})
	r.add("mixed", models("gpt-mixed"), choice{"vllm", ""}, choice{"anthropic", "claude"}, choice{"dashscope", "qwen-plus"})
	r.add("lab", table.Match{Models: []string{"lab-model"}, Labels: map[string]string{"team": "lab"}}, choice{"vllm", ""})
	r.add("beta", models("beta-model"), choice{"vllm", ""}).RequiredScopes = []string{"beta"}
	r.add("patterns", models("gemini-*"), choice{"anthropic", ""})
	r.unasked = true
	r.add("untold", models("gpt-untold"), choice{"vllm", ""}, choice{"openai", ""})
	r.add("renamed-untold", models("gpt-renamed"), choice{"vllm", ""}, choice{"openai", "gpt-4o"})
	r.unasked = false
	r.add("versions", table.Match{Models: []string{"gpt-4o"}, Headers: []table.ValueMatch{{Name: "x-version", Value: "v2"}}}, choice{"vllm", ""})
	return r.build()
}

// TestRefusals has every answer that Weir gives itself before a request goes anywhere.
func TestRefusals(t *testing.T) {
	body := asks("gpt-4o", false)
	for _, c := range []struct {
		name   string
		h      headerMap
		peek   *corev3.Metadata
		status int
		kind   string // of the error, in OpenAI's words
		says   string
	}{
		{"no credential", chatHeaders().with("authorization", ""), body, 401, "authentication_error", "no credential"},
		{"unknown key", chatHeaders().with("authorization", "Bearer nobody-0123456789"), body, 401, "authentication_error", "not valid"},
		{"two credentials", chatHeaders("x-api-key", narrowKey), body, 401, "authentication_error", ""},
		{"scheme", chatHeaders().with("authorization", "Basic eDp5"), body, 401, "authentication_error", "scheme"},
		{"unknown path without a key", chatHeaders().with(":path", "/nowhere").with("authorization", ""), body, 401, "authentication_error", ""},
		{"unknown path", chatHeaders().with(":path", "/nowhere"), body, 404, "invalid_request_error", "Nothing is served at POST /nowhere"},
		{"method", chatHeaders().with(":method", "GET"), nil, 405, "invalid_request_error", "GET is not allowed at /v1/chat/completions; use POST"},
		{"upgrade", chatHeaders("upgrade", "websocket"), nil, 426, "", "Upgrades are not served here"},
		{"two hosts", chatHeaders().with(":authority", "a,b"), body, 400, "invalid_request_error", "more than one host"},
		{"compressed body", chatHeaders("content-encoding", "gzip"), body, 415, "invalid_request_error", `content-encoding "gzip"`},
		{"compressed body, long name", chatHeaders("content-encoding", strings.Repeat("z", 100)), body, 415, "invalid_request_error", strings.Repeat("z", 32) + "..."},
		{"form", chatHeaders().with("content-type", "application/x-www-form-urlencoded"), body, 415, "invalid_request_error", "application/json"},

		{"no body", chatHeaders(), nil, 400, "invalid_request_error", "no body"},
		{"empty body", chatHeaders(), peekedAt("", "", "empty"), 400, "invalid_request_error", "body is empty"},
		{"no object", chatHeaders(), peekedAt("", "", "not_object"), 400, "invalid_request_error", "not a JSON object"},
		{"syntax", chatHeaders(), peekedAt("", "", "syntax"), 400, "invalid_request_error", "not valid JSON"},
		{"no UTF-8", chatHeaders(), peekedAt("", "", "not_utf8"), 400, "invalid_request_error", "not valid UTF-8"},
		{"trailing", chatHeaders(), peekedAt("", "", "trailing"), 400, "invalid_request_error", "text after its JSON object"},
		{"model twice", chatHeaders(), peekedAt("", "", "duplicate_model"), 400, "invalid_request_error", "more than once"},
		{"stream twice", chatHeaders(), peekedAt("", "", "duplicate_stream"), 400, "invalid_request_error", "more than once"},
		{"escaped key", chatHeaders(), peekedAt("", "", "escaped_key"), 400, "invalid_request_error", "escapes"},
		{"key case", chatHeaders(), peekedAt("", "", "key_case"), 400, "invalid_request_error", "another case"},
		{"long model", chatHeaders(), peekedAt("", "", "long_model"), 400, "invalid_request_error", "longer than 256"},
		{"long stream", chatHeaders(), peekedAt("", "", "long_stream"), 400, "invalid_request_error", "true or false"},
		{"no model", chatHeaders(), peekedAt("", "", ""), 400, "invalid_request_error", `no "model"`},
		{"null model", chatHeaders(), peekedAt("null", "", ""), 400, "invalid_request_error", "not null"},
		{"model of a number", chatHeaders(), peekedAt("4", "", ""), 400, "invalid_request_error", "must be a string"},
		{"model of an object", chatHeaders(), peekedAt(`{"a":1}`, "", ""), 400, "invalid_request_error", "must be a string"},
		{"model with a broken escape", chatHeaders(), peekedAt(`"\u12"`, "", ""), 400, "invalid_request_error", "must be a string"},
		{"empty model", chatHeaders(), peekedAt(`""`, "", ""), 400, "invalid_request_error", "1 to 256 bytes"},
		{"model of 257 bytes", chatHeaders(), asks(strings.Repeat("m", 257), false), 400, "invalid_request_error", "1 to 256 bytes"},
		{"model with a line break", chatHeaders(), peekedAt(`"a\nb"`, "", ""), 400, "invalid_request_error", "printable"},
		{"stream of text", chatHeaders(), peekedAt(`"gpt-4o"`, `"true"`, ""), 400, "invalid_request_error", "stream must be"},
		{"stream of a number", chatHeaders(), peekedAt(`"gpt-4o"`, `1`, ""), 400, "invalid_request_error", "stream must be"},

		{"model that the caller may not", chatHeaders().with("authorization", "Bearer "+narrowKey), asks("claude", false), 403, "permission_error", `may not use the model "claude"`},
		{"scope", chatHeaders(), asks("beta-model", false), 403, "permission_error", "beta"},
		{"no rule", chatHeaders(), asks("nobody-has-this", false), 404, "", `No route serves the model "nobody-has-this"`},
		{"rule of a label the caller has not", chatHeaders(), asks("lab-model", false), 404, "", "No route serves"},
		{"rule without a backend for the model", chatHeaders(), asks("gemini-pro", false), 404, "", `No backend serves the model "gemini-pro"`},
		{"operation that is not translated", chatHeaders().with(":path", "/v1/embeddings"), asks("claude", false), 400, "invalid_request_error", "embeddings requests are not translated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, doorTable(t))
			d := r.open(c.h, c.peek)
			im := d.first.GetImmediateResponse()
			if im == nil {
				t.Fatalf("the request goes on: %v", d.first)
			}
			if got := int(im.GetStatus().GetCode()); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			var e struct {
				Error struct{ Message, Type string }
			}
			if err := json.Unmarshal(im.GetBody(), &e); err != nil || e.Error.Message == "" {
				t.Fatalf("the body is no error of OpenAI: %s", im.GetBody())
			}
			if !strings.Contains(e.Error.Message, c.says) || c.kind != "" && e.Error.Type != c.kind {
				t.Errorf("got %s: %s", e.Error.Type, e.Error.Message)
			}
			if strings.Contains(string(im.GetBody()), "0123456789") {
				t.Errorf("a credential is quoted: %s", im.GetBody())
			}
			h := headerMap{}.apply(im.GetHeaders())
			if h.get("content-type") != "application/json" {
				t.Errorf("content-type %q", h.get("content-type"))
			}
			wantChallenge := c.status == 401 || c.name == "scope" // RFC 6750 section 3
			if challenge := h.get("www-authenticate"); wantChallenge != (challenge != "") {
				t.Errorf("status %d with www-authenticate %q", c.status, challenge)
			}
			if c.status == 405 && h.get("allow") != "POST" {
				t.Errorf("allow is %q", h.get("allow"))
			}
			if said(d.first, wire.KeyImmediate) != "true" || said(d.first, wire.KeyDialect) != "openai" {
				t.Errorf("facts: %v", d.first.GetDynamicMetadata())
			}
			d.end()
			if !slices.Equal(r.statuses, []int{c.status}) {
				t.Errorf("metrics were told %v", r.statuses)
			}
			if n, _ := r.server.InFlight(); n != 0 {
				t.Error("something is kept for a request that is over")
			}
		})
	}
}

func TestRefusalsSpeakTheCallersDialect(t *testing.T) {
	r := newRig(t, doorTable(t))
	d := r.open(chatHeaders("anthropic-version", "2023-06-01").with(":path", "/v1/messages"), peekedAt("", "", "syntax"))
	var e struct {
		Type  string
		Error struct{ Type, Message string }
	}
	if err := json.Unmarshal(d.first.GetImmediateResponse().GetBody(), &e); err != nil || e.Type != "error" || e.Error.Type != "invalid_request_error" {
		t.Errorf("no error of Anthropic: %s", d.first.GetImmediateResponse().GetBody())
	}
}

func TestNoTableYet(t *testing.T) {
	r := newRig(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := r.client.Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(requestHeaders(chatHeaders(), asks("gpt-4o", false))); err != nil {
		t.Fatal(err)
	}
	// Envoy then does what the configuration that it has says, of which nothing is known here.
	if resp, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, %v", resp, err)
	}
	r.server.Use(doorTable(t))
	if d := r.open(chatHeaders(), asks("gpt-4o", false)); d.first.GetImmediateResponse() != nil {
		t.Errorf("with a table: %v", d.first)
	}
	if r.server.Table().Version != "v1" {
		t.Error("Table does not return the table in use")
	}
}

func TestExpiredKey(t *testing.T) {
	r := newRig(t, doorTable(t))
	r.advance(2 * 3600e9)
	if got := r.open(chatHeaders(), asks("gpt-4o", false)).first.GetImmediateResponse().GetStatus().GetCode(); got != 401 {
		t.Errorf("status %d", got)
	}
}

// TestDecisions has every way that a request goes on.
func TestDecisions(t *testing.T) {
	const translate, keep = filterv3.ProcessingMode_STREAMED, filterv3.ProcessingMode_NONE
	for _, c := range []struct {
		name     string
		h        headerMap
		peek     *corev3.Metadata
		rule     string // wire.RuleHeader
		direct   bool
		buffered bool // the body is asked for
		answers  filterv3.ProcessingMode_BodySendMode
		kept     int // exchanges after the headers
	}{
		{"one backend of the caller's dialect", chatHeaders(), asks("gpt-4o", false), "direct-of-direct", true, false, keep, 0},
		{"a more particular rule", chatHeaders("x-version", "v2"), asks("gpt-4o", false), "direct-of-versions", true, false, keep, 0},
		{"another name upstream", chatHeaders(), asks("renamed", false), "chain-of-renamed", false, true, keep, 0},
		{"alias", chatHeaders(), asks("smart", false), "chain-of-alias", false, true, keep, 0},
		{"fallback with one other name", chatHeaders(), asks("gpt-both", false), "chain-of-fallback", false, true, keep, 0},
		{"fallback in one dialect", chatHeaders(), asks("gpt-pool", true), "chain-of-pool", false, false, keep, 1},
		{"fallback in one dialect that Envoy sees to", chatHeaders(), asks("gpt-untold", true), "direct-of-untold", true, false, keep, 0},
		{"fallback that Envoy could see to, but for another name", chatHeaders(), asks("gpt-renamed", false), "chain-of-renamed-untold", false, true, keep, 0},
		{"another dialect", chatHeaders(), asks("claude", true), "chain-of-translated", false, true, translate, 0},
		{"several dialects", chatHeaders(), asks("gpt-mixed", false), "chain-of-mixed", false, true, translate, 0},
		{"embeddings where only one of the backends can", chatHeaders().with(":path", "/v1/embeddings"), asks("gpt-mixed", false), "direct-of-mixed", true, false, keep, 0},
		{"label", chatHeaders().with("authorization", "Bearer "+labKey), asks("lab-model", false), "direct-of-lab", true, false, keep, 0},
		{"scope", chatHeaders().with("authorization", "ApiKey "+labKey), asks("beta-model", false), "direct-of-beta", true, false, keep, 0},
		{"escapes in the model", chatHeaders(), peekedAt(`"gpt\u002d4o"`, "null", ""), "direct-of-direct", true, false, keep, 0},
		{"content type with parameter", chatHeaders().with("content-type", "Application/JSON; charset=utf-8"), asks("gpt-4o", false), "direct-of-direct", true, false, keep, 0},
		{"no content type, identity encoding", chatHeaders("content-encoding", "Identity").with("content-type", ""), asks("gpt-4o", false), "direct-of-direct", true, false, keep, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, doorTable(t))
			d := r.open(c.h, c.peek)
			common := d.first.GetRequestHeaders().GetResponse()
			if common == nil || !common.GetClearRouteCache() {
				t.Fatalf("the request does not go on to another route: %v", d.first)
			}
			if got := setHeader(d.first, wire.RuleHeader); got != c.rule {
				t.Errorf("goes to %q, want %q", got, c.rule)
			}
			if got := setHeader(d.first, wire.PathHeader); (got != "") != c.direct {
				t.Errorf("path header %q", got)
			}
			override := d.first.GetModeOverride()
			if buffered := override.GetRequestBodyMode() == filterv3.ProcessingMode_BUFFERED; buffered != c.buffered {
				t.Errorf("body asked for: %v, want %v", buffered, c.buffered)
			}
			if override.GetResponseBodyMode() != c.answers {
				t.Errorf("answers come as %v, want %v", override.GetResponseBodyMode(), c.answers)
			}
			if said(d.first, wire.KeyExchange) == "" {
				t.Error("the record of the request will not find what is open for it")
			}
			if n, _ := r.server.InFlight(); n != c.kept {
				t.Errorf("%d exchanges are kept, want %d", n, c.kept)
			}
			if !slices.Equal(r.statuses, []int{0}) {
				t.Errorf("metrics were told %v", r.statuses)
			}
			if h := c.h.apply(common.GetHeaderMutation()); h.get("x-request-id") != "req-1" {
				t.Error("the request ID is lost")
			}
			d.end()
		})
	}
}

func TestFactsOfADecision(t *testing.T) {
	r := newRig(t, doorTable(t))
	d := r.open(chatHeaders(), asks("claude", true))
	for key, want := range map[string]string{
		wire.KeyRoute: "default/translated", wire.KeyDialect: "openai", wire.KeyModel: "claude", wire.KeyOperation: "chat",
		wire.KeyConsumer: "demo", wire.KeyTenant: "acme", wire.KeyCredential: "key:k1", wire.KeyVersion: "v1", wire.KeyStream: "true",
		wire.KeyImmediate: "",
	} {
		if got := said(d.first, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if raw := d.first.String(); strings.Contains(raw, demoKey) || strings.Contains(raw, "provider-key") {
		t.Error("a credential is in the decision")
	}
}

func TestModels(t *testing.T) {
	r := newRig(t, doorTable(t))
	list := func(h headerMap) []string {
		im := r.open(h, nil).first.GetImmediateResponse()
		var body struct{ Data []struct{ ID string } }
		if err := json.Unmarshal(im.GetBody(), &body); err != nil || im.GetStatus().GetCode() != 200 {
			t.Fatalf("%d: %s", im.GetStatus().GetCode(), im.GetBody())
		}
		var out []string
		for _, m := range body.Data {
			out = append(out, m.ID)
		}
		return out
	}
	get := chatHeaders().with(":method", "GET").with(":path", "/v1/models")
	if got, want := list(get.with("authorization", "Bearer "+narrowKey)), []string{"gpt-4o", "gpt-both", "gpt-mixed", "gpt-pool", "gpt-renamed", "gpt-untold"}; !slices.Equal(got, want) {
		t.Errorf("narrow sees %q, want %q", got, want)
	}
	if got := list(get); slices.Contains(got, "lab-model") || slices.Contains(got, "beta-model") || !slices.Contains(got, "claude") {
		t.Errorf("demo sees %q", got)
	}
	if got := list(get.with("authorization", "").with("x-api-key", labKey).with("anthropic-version", "2023-06-01")); !slices.Contains(got, "lab-model") || !slices.Contains(got, "beta-model") {
		t.Errorf("lab sees %q", got)
	}
	for path, want := range map[string]int32{"/v1/models/claude": 200, "/v1/models/cla%75de": 200, "/v1/models/nobody": 404, "/v1/models/lab-model": 404} {
		if got := r.open(get.with(":path", path), nil).first.GetImmediateResponse().GetStatus().GetCode(); int32(got) != want {
			t.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
}

// TestStreamsThatBreakTheProtocol end with an error and not with a guess.
func TestStreamsThatBreakTheProtocol(t *testing.T) {
	body := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("{}")}}}
	answer := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{}}}
	trailers := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{}}
	direct, chain := requestHeaders(chatHeaders(), asks("gpt-4o", false)), requestHeaders(chatHeaders(), asks("claude", false))
	refused := requestHeaders(chatHeaders().with("authorization", ""), asks("gpt-4o", false))
	attempt := requestHeaders(chatHeaders(), asks("gpt-4o", false))
	attempt.Attributes = requestAttributes()
	attemptBody := &extprocv3.ProcessingRequest{Request: body.Request, Attributes: requestAttributes()}
	for name, list := range map[string][]*extprocv3.ProcessingRequest{
		"body first": {body}, "body of a direct request": {direct, body}, "body after a refusal": {refused, body},
		"an answer nobody asked for": {chain, answer}, "trailers": {chain, trailers},
		"attempt without headers": {attemptBody}, "attempt with a body": {attempt, body},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, doorTable(t))
			s, err := r.client.Process(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, m := range list {
				if err := s.Send(m); err != nil {
					t.Fatal(err)
				}
				_, err := s.Recv()
				if last := i == len(list)-1; (err != nil) != last {
					t.Fatalf("message %d: %v", i, err)
				}
			}
		})
	}
}

// TestEnteredALane: a request that the door has let through, and that Envoy asks about nevertheless, is not taken for one without a body.
func TestEnteredALane(t *testing.T) {
	r := newRig(t, doorTable(t))
	resp := r.open(chatHeaders().with(wire.LaneHeader, "elsewhere-L0.1.1"), nil).first.GetImmediateResponse()
	if resp.GetStatus().GetCode() != 503 || !strings.Contains(string(resp.GetBody()), "send it again") {
		t.Errorf("%d: %s", resp.GetStatus().GetCode(), resp.GetBody())
	}
}
