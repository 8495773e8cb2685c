package extproc

import (
	"context"
	"crypto/sha256"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// t0 is the "now" of these tests until they move it.
var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// The keys of callers: demo may all, narrow may gpt-*, lab has a label and a scope.
const (
	demoKey   = "demo-key-0123456789"
	narrowKey = "narrow-key-0123456789"
	labKey    = "lab-key-0123456789"
)

// rig is a Server behind gRPC in memory, and what a test needs of Envoy.
type rig struct {
	book   *memoryLedger
	t      testing.TB
	server *Server
	client extprocv3.ExternalProcessorClient

	mu       sync.Mutex
	now      time.Time
	statuses []int
	took     []time.Duration // for each of statuses
	attempts []string
}

// Decided and Attempted make rig a Metrics.
func (r *rig) Decided(status int, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if took < 0 {
		r.t.Errorf("a decision took %v", took)
	}
	r.statuses, r.took = append(r.statuses, status), append(r.took, took)
}

// times are how long decisions took.
func (r *rig) times() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took)
}

func (r *rig) BreakerShadowed(string) {}

func (r *rig) Attempted(backend string, translated bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if translated {
		backend += " translated"
	}
	r.attempts = append(r.attempts, backend)
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

// newRig serves t, or no table where that is nil.
func newRig(t testing.TB, tbl *table.Table) *rig {
	t.Helper()
	return newRigWith(t, tbl, func(*rig, *Options) {})
}

// newRigWith is newRig with other options.
func newRigWith(t testing.TB, tbl *table.Table, change func(*rig, *Options)) *rig {
	t.Helper()
	r := &rig{t: t, now: t0, book: newMemoryLedger()}
	opts := testOptions(t, r.clock, r.book)
	opts.Metrics = r
	change(r, &opts)
	r.server = New(opts)
	if tbl != nil {
		r.server.Use(tbl)
	}
	lis := bufconn.Listen(1 << 20)
	g := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.ForceServerCodecV2(usage.Codec()))
	r.server.Register(g)
	go func() { _ = g.Serve(lis) }() // Stop ends it
	conn, err := grpc.NewClient("passthrough:///weir", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); g.Stop() })
	r.client = extprocv3.NewExternalProcessorClient(conn)
	return r
}

func dialects(t testing.TB) *adapters.Set {
	t.Helper()
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// backends of the tests: two of OpenAI, one of each other dialect.
func backends(t testing.TB) map[string]*table.Backend {
	set := dialects(t)
	of := func(name, dialect, base, host string) *table.Backend {
		d, ok := set.Get(dialect)
		if !ok {
			t.Fatalf("no dialect %s", dialect)
		}
		b := &table.Backend{ID: "default/" + name, Dialect: &d, BasePath: base, Host: host}
		b.Credentials = d.Out.Credentials("provider-key-of-" + name)
		return b
	}
	out := map[string]*table.Backend{
		"openai": of("openai", "openai", "/v1", "api.openai.test"), "vllm": of("vllm", "openai", "/pool/v1", "10.0.0.1:8000"),
		"anthropic": of("anthropic", "anthropic", "", "api.anthropic.test"), "dashscope": of("dashscope", "dashscope", "/api/v1", "dashscope.test"),
	}
	out["openai"].Models = map[string]string{"gpt-4o": "gpt-4o", "renamed": "org/renamed-7b", "embed": "embed"}
	out["anthropic"].Models = map[string]string{"claude": "claude-sonnet-4-5"}
	out["dashscope"].Models = map[string]string{"qwen-plus": "qwen-plus"}
	out["vllm"].Credentials = nil
	return out
}

// choice is a candidate of a rule: a backend by its name, and the model that is asked of it.
type choice struct{ backend, model string }

// rules builds a table.
type rules struct {
	t        testing.TB
	backends map[string]*table.Backend
	builder  table.Builder
	table    *table.Table
	attempts int  // of the rules that are added; 0: one for each candidate
	unasked  bool // Envoy prepares the attempts of the rules that are added, where nothing is translated
}

func newRules(t testing.TB) *rules {
	t.Helper()
	sum := func(key string) [sha256.Size]byte { return sha256.Sum256([]byte(key)) }
	auth, errs := identity.New(identity.Config{
		Consumers: []identity.Consumer{
			{Namespace: "default", Name: "demo", Tenant: "acme"},
			{Namespace: "default", Name: "narrow", AllowedModels: []string{"gpt-*"}},
			{Namespace: "default", Name: "lab", Labels: map[string]string{"team": "lab"}, Scopes: []string{"beta"}},
		},
		Keys: []identity.Key{
			{Namespace: "default", Name: "k1", Consumer: "demo", Hash: sum(demoKey), ExpiresAt: t0.Add(time.Hour)},
			{Namespace: "default", Name: "k2", Consumer: "narrow", Hash: sum(narrowKey)},
			{Namespace: "default", Name: "k3", Consumer: "lab", Hash: sum(labKey)},
		},
	}, nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return &rules{t: t, backends: backends(t), table: &table.Table{Version: "v1", Auth: auth, Created: 1700000000}}
}

// add adds a rule. Its chain is named after it: there is one, which asks the choices in their order, whatever variant.
func (r *rules) add(name string, m table.Match, choices ...choice) *table.Rule {
	r.t.Helper()
	rule := &table.Rule{Name: "default/" + name, Timeout: 10 * time.Minute}
	for i, c := range choices {
		rule.Candidates = append(rule.Candidates, &table.Candidate{Backend: r.backends[c.backend], Model: c.model, Weight: 1, Bit: 1 << i})
	}
	variants := map[table.Mask]*table.Variant{}
	for _, mask := range rule.Masks([]string{"openai", "anthropic"}) {
		v := &table.Variant{ChainKey: "chain-of-" + name}
		for _, c := range rule.Candidates {
			if mask&c.Bit != 0 {
				v.Candidates = append(v.Candidates, c)
			}
		}
		if len(v.Candidates) == 1 || r.unasked {
			v.DirectKey = "direct-of-" + name
		}
		if slices.ContainsFunc(v.Candidates, func(c *table.Candidate) bool { return c.Backend.Pick != nil && c.Backend.Pick.Mode == pick.LeastLoad }) {
			v.First = map[*table.Candidate]table.Keys{}
			for _, c := range v.Candidates {
				v.First[c] = r.first(v, c)
			}
		}
		variants[mask] = v
	}
	rule.SetVariants(variants)
	chains := r.table.Chains.Edit()
	chains.Set("chain/"+name, &table.Chain{Name: "chain/" + name, Candidates: rule.Candidates})
	r.table.Chains = chains.Map()
	if err := r.builder.Add(rule, m); err != nil {
		r.t.Fatal(err)
	}
	return rule
}

// first are the keys of the routes that begin with c, which name its backend, and ask the others after it.
func (r *rules) first(v *table.Variant, c *table.Candidate) table.Keys {
	name := strings.TrimPrefix(c.Backend.ID, "default/")
	k := table.Keys{Chain: v.ChainKey + "-from-" + name}
	if v.DirectKey != "" {
		k.Direct = v.DirectKey + "-from-" + name
	}
	once := append([]*table.Candidate{c}, slices.DeleteFunc(slices.Clone(v.Candidates), func(o *table.Candidate) bool { return o == c })...)
	attempts := r.attempts
	if attempts == 0 {
		attempts = len(once)
	}
	for i := range attempts {
		k.Order = append(k.Order, once[i%len(once)])
	}
	return k
}

func (r *rules) build() *table.Table {
	r.builder.Build(r.table)
	return r.table
}

// models is a match of these models.
func models(names ...string) table.Match { return table.Match{Models: names} }

// read reads a message of Envoy as a stream does.
func read(t testing.TB, m *extprocv3.ProcessingRequest) *message.Request {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := new(message.Request)
	if err := out.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	return out
}

// headerMap is a request's or an answer's headers as Envoy keeps them: in order, names in lower case.
type headerMap []*corev3.HeaderValue

func headersOf(pairs ...string) (out headerMap) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return out
}

// chatHeaders are those of an OpenAI chat request of the demo caller.
func chatHeaders(more ...string) headerMap {
	return append(headersOf(":method", "POST", ":path", "/v1/chat/completions", ":authority", "gateway.test",
		"content-type", "application/json", "x-request-id", "req-1", "authorization", "Bearer "+demoKey), headersOf(more...)...)
}

// with replaces, adds, or removes (value "") a header.
func (h headerMap) with(name, value string) headerMap {
	out := slices.DeleteFunc(slices.Clone(h), func(kv *corev3.HeaderValue) bool { return kv.GetKey() == name })
	if value != "" {
		out = append(out, headersOf(name, value)...)
	}
	return out
}

// get joins the lines of a name as Envoy does.
func (h headerMap) get(name string) string {
	var lines []string
	for _, kv := range h {
		if kv.GetKey() == name {
			lines = append(lines, value(kv))
		}
	}
	return strings.Join(lines, ",")
}

// apply changes headers as Envoy does: first what is removed, then what is set.
func (h headerMap) apply(m *extprocv3.HeaderMutation) headerMap {
	for _, name := range m.GetRemoveHeaders() {
		h = h.with(name, "")
	}
	for _, o := range m.GetSetHeaders() {
		h = append(h.with(o.GetHeader().GetKey(), ""), o.GetHeader())
	}
	return h
}

// peekedAt makes the metadata that the peek filter leaves of a body.
func peekedAt(model, stream, err string) *corev3.Metadata {
	fields := map[string]any{}
	for k, v := range map[string]string{wire.PeekModel: model, wire.PeekStream: stream, wire.PeekError: err} {
		if v != "" {
			fields[k] = v
		}
	}
	if err != "empty" {
		fields[wire.PeekRead] = true
	}
	s, _ := structpb.NewStruct(fields) // of strings and a bool: cannot fail
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{wire.PeekNamespace: s}}
}

// asks is the metadata of a body that asks for a model.
func asks(model string, stream bool) *corev3.Metadata {
	s := ""
	if stream {
		s = "true"
	}
	return peekedAt(`"`+model+`"`, s, "")
}

// door is the router-level stream of one request.
type door struct {
	t      testing.TB
	stream extprocv3.ExternalProcessor_ProcessClient
	first  *extprocv3.ProcessingResponse
}

// open sends headers and reads the decision.
func (r *rig) open(h headerMap, peek *corev3.Metadata) *door {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // so that what waits in vain fails
	r.t.Cleanup(cancel)
	s, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	d := &door{t: r.t, stream: s}
	d.first = d.send(requestHeaders(h, peek))
	return d
}

func requestHeaders(h headerMap, peek *corev3.Metadata) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{MetadataContext: peek, Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: h}, EndOfStream: peek == nil},
	}}
}

func (d *door) send(m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	d.t.Helper()
	if err := d.stream.Send(m); err != nil {
		d.t.Fatalf("send: %v", err)
	}
	resp, err := d.stream.Recv()
	if err != nil {
		d.t.Fatalf("receive: %v", err)
	}
	return resp
}

// body sends the whole request body.
func (d *door) body(b string) *extprocv3.ProcessingResponse {
	d.t.Helper()
	return d.send(bodyOf(b))
}

func bodyOf(b string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: piece(b, true)}}
}

// end closes the stream as Envoy does, and waits until the server has ended it.
func (d *door) end() {
	d.t.Helper()
	if err := d.stream.CloseSend(); err != nil {
		d.t.Fatal(err)
	}
	if _, err := d.stream.Recv(); err != io.EOF {
		d.t.Errorf("the stream ends with %v", err)
	}
}

// said reads what a decision said about the request.
func said(resp *extprocv3.ProcessingResponse, key string) string {
	return resp.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()[key].GetStringValue()
}

// setHeader reads a header that a decision sets.
func setHeader(resp *extprocv3.ProcessingResponse, name string) string {
	for _, o := range resp.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders() {
		if o.GetHeader().GetKey() == name {
			return value(o.GetHeader())
		}
	}
	return ""
}

// attempt plays an attempt of Envoy: chain and backend are what it has chosen, h the headers as they stand.
func (r *rig) attempt(decided *extprocv3.ProcessingResponse, chain, backend string, h headerMap) *extprocv3.ProcessingResponse {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	a := &door{t: r.t, stream: s}
	m := requestHeaders(h, &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		wire.DecisionNamespace: decided.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue(),
	}})
	m.Attributes = attributesOf(attemptAttributes(chain, backend))
	resp := a.send(m)
	a.end()
	return resp
}

// attemptAttributes are Envoy's, in its text format of a protocol buffer.
func attemptAttributes(chain, backend string) *structpb.Struct {
	s, _ := structpb.NewStruct(map[string]any{ // of strings: cannot fail
		wire.ClusterAttribute:      chain,
		wire.HostMetadataAttribute: `filter_metadata { key: "weir" value { fields { key: "backend" value { string_value: "` + backend + `" } } } }`,
	})
	return s
}

// answered plays the answer's headers coming back to the door. A backend made it, or ("") Envoy itself.
func (d *door) answered(backend string, end bool, pairs ...string) *extprocv3.ProcessingResponse {
	d.t.Helper()
	h, details := headersOf(pairs...), wire.ViaUpstream
	if backend == "" {
		details = "upstream_reset"
	} else {
		h = h.with(wire.BackendHeader, backend)
	}
	attrs, _ := structpb.NewStruct(map[string]any{wire.CodeDetailsAttribute: details}) // of a string: cannot fail
	return d.send(&extprocv3.ProcessingRequest{
		Attributes: attributesOf(attrs),
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers: &corev3.HeaderMap{Headers: h}, EndOfStream: end,
		}},
	})
}

// answerBody plays a piece of the answer, and returns what takes its place.
func (d *door) answerBody(piece []byte, end bool) *extprocv3.CommonResponse {
	d.t.Helper()
	return d.send(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: piece, EndOfStream: end},
	}}).GetResponseBody().GetResponse()
}

func requestAttributes() map[string]*structpb.Struct {
	return attributesOf(attemptAttributes("chain/none", "default/none"))
}

func attributesOf(s *structpb.Struct) map[string]*structpb.Struct {
	return map[string]*structpb.Struct{"envoy.filters.http.ext_proc": s}
}

func textValue(s string) *structpb.Value_StringValue {
	return &structpb.Value_StringValue{StringValue: s}
}

func itoa(n int) string { return strconv.Itoa(n) }

// answerOn makes the translator of a stream whose headers have come, without gRPC.
func answerOn(t testing.TB, backend string, stream bool) *answer {
	t.Helper()
	b := backends(t)[strings.TrimPrefix(backend, "default/")]
	d, _ := dialects(t).Get("openai")
	req, err := d.In.ParseRequest([]byte(`{"model":"gpt-all","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	a := newAnswer(&exchange{id: "x", dialect: &d, model: "gpt-all", stream: stream, request: req, created: t0}, b, nil, "req-1")
	a.onHeaders(&extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{Headers: headersOf(":status", "200", "content-type", "text/event-stream")}})
	return a
}

func piece(s string, end bool) *extprocv3.HttpBody {
	return &extprocv3.HttpBody{Body: []byte(s), EndOfStream: end}
}

// exchangeID is the part of an ID that differs from one process to the next.
var exchangeID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-z]+`)

// clean takes out what differs from one request to the next.
func clean(answer string) string { return exchangeID.ReplaceAllString(answer, "ID") }
