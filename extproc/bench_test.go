package extproc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// script is a stream whose messages are all there: what is measured is Weir's own work, without gRPC.
type script struct {
	in  []*extprocv3.ProcessingRequest
	out []*extprocv3.ProcessingResponse
}

func (s *script) RecvMsg(m any) error {
	if len(s.in) == 0 {
		return io.EOF
	}
	next := s.in[0]
	s.in = s.in[1:]
	if m, ok := m.(*extprocv3.ProcessingRequest); ok {
		proto.Merge(m, next)
		return nil
	}
	raw, err := proto.Marshal(next)
	if err != nil {
		return err
	}
	return usage.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, m)
}

func (s *script) SendMsg(m any) error {
	data, err := usage.Codec().Marshal(m)
	if err != nil {
		return err
	}
	out := new(extprocv3.ProcessingResponse)
	s.out = append(s.out, out)
	return proto.Unmarshal(data.Materialize(), out)
}

func (s *script) SetHeader(metadata.MD) error  { return nil }
func (s *script) SendHeader(metadata.MD) error { return nil }
func (s *script) SetTrailer(metadata.MD)       {}
func (s *script) Context() context.Context     { return context.Background() }

// wireScript is a script of encoded messages, which are decoded by Weir alone.
type wireScript struct {
	script
	raw, sent [][]byte
}

func encoded(t testing.TB, list ...*extprocv3.ProcessingRequest) (out [][]byte) {
	t.Helper()
	for _, m := range list {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw)
	}
	return out
}

func (s *wireScript) RecvMsg(m any) error {
	if len(s.raw) == 0 {
		return io.EOF
	}
	next := s.raw[0]
	s.raw = s.raw[1:]
	return benchCodec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(next)}, m)
}

func (s *wireScript) SendMsg(m any) error {
	data, err := benchCodec.Marshal(m)
	if err != nil {
		return err
	}
	s.sent = append(s.sent, data.Materialize())
	return nil
}

var benchCodec = usage.Codec()

// first is the first answer.
func (s *wireScript) first(t testing.TB) *extprocv3.ProcessingResponse {
	t.Helper()
	m := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(s.sent[0], m); err != nil {
		t.Fatal(err)
	}
	return m
}

func benchServer(b *testing.B) *Server {
	s := New(testOptions(b, time.Now, newMemoryLedger()))
	r := newRules(b)
	r.add("all", models("gpt-all"), choice{"openai", "renamed"}, choice{"anthropic", "claude"}, choice{"vllm", ""}, choice{"dashscope", "qwen-plus"})
	r.add("direct", models("gpt-4o"), choice{"openai", ""})
	r.add("pool", models("gpt-pool"), choice{"vllm", ""}, choice{"vllm", ""})
	s.Use(r.build())
	return s
}

// benchHeaders have a key without expiry, since the benchmarks run on the real clock.
func benchHeaders() headerMap { return chatHeaders().with("authorization", "Bearer "+narrowKey) }

func benchProcess(b *testing.B, s *Server, release bool, in ...*extprocv3.ProcessingRequest) {
	raw := encoded(b, in...)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		sc := wireScript{raw: raw, sent: make([][]byte, 0, 4)}
		if err := s.Process(&sc); err != nil {
			b.Fatal(err)
		}
		if i == 0 && sc.first(b).GetRequestHeaders() == nil {
			b.Fatalf("refused: %v", sc.first(b))
		}
		if release {
			s.Release(exchangeOf(sc.sent[0]))
		}
	}
}

// exchangeOf finds the exchange in an encoded decision, without what it costs to decode it.
func exchangeOf(raw []byte) string {
	_, rest, ok := bytes.Cut(raw, []byte(wire.KeyExchange))
	if !ok {
		return ""
	}
	value := rest[2:] // behind tag and length of a Value is its string
	return string(value[2 : 2+value[1]])
}

// BenchmarkDecideDirect is the common case: one message, nothing kept.
func BenchmarkDecideDirect(b *testing.B) {
	benchProcess(b, benchServer(b), false, requestHeaders(benchHeaders(), asks("gpt-4o", true)))
}

// BenchmarkDecideChain keeps an exchange for attempts of one dialect.
func BenchmarkDecideChain(b *testing.B) {
	benchProcess(b, benchServer(b), true, requestHeaders(benchHeaders(), asks("gpt-pool", true)))
}

// BenchmarkDecideTranslated reads the body as well.
func BenchmarkDecideTranslated(b *testing.B) {
	body := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: piece(chatBody, true)}}
	benchProcess(b, benchServer(b), true, requestHeaders(benchHeaders(), asks("gpt-all", false)), body)
}

// BenchmarkAttempt prepares an attempt: in the caller's dialect under another name, and translated.
func BenchmarkAttempt(b *testing.B) {
	for _, backend := range []string{"openai", "vllm", "anthropic", "dashscope"} {
		b.Run(backend, func(b *testing.B) {
			s := benchServer(b)
			door := script{in: []*extprocv3.ProcessingRequest{requestHeaders(benchHeaders(), asks("gpt-all", false)),
				{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: piece(chatBody, true)}}}}
			if err := s.Process(&door); err != nil {
				b.Fatal(err)
			}
			m := requestHeaders(benchHeaders(), &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				wire.DecisionNamespace: door.out[0].GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue(),
			}})
			m.Attributes = attributesOf(attemptAttributes("chain/all", "default/"+backend))
			benchProcess(b, s, false, m)
		})
	}
}

// BenchmarkChunk translates one delta of a stream.
func BenchmarkChunk(b *testing.B) {
	for backend, chunk := range map[string]string{
		"anthropic": "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" world\"}}\n\n",
		"dashscope": "id:2\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":\" world\",\"role\":\"assistant\"},\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":5,\"output_tokens\":2,\"total_tokens\":7},\"request_id\":\"r-1\"}\n\n",
	} {
		b.Run(backend, func(b *testing.B) {
			a := answerOn(b, backend, true)
			m := piece(chunk, false)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				a.onBody(m)
			}
		})
	}
}

// BenchmarkDecideSteered is a decision and the end of its request: to a backend that nobody steers, to a pool of eight endpoints, and to
// one that keeps prompts together, for which a prompt of about 12,000 tokens is read: half of it is common to all.
func BenchmarkDecideSteered(b *testing.B) {
	setup := func(b *testing.B) *steeredRig {
		return newSteeredRig(b, func(r *rules) {
			r.table.Waits = false
			r.table.Policies.AllTenants = nil
			for _, name := range []string{"gpu", "far"} {
				r.backends[name].Endpoints = addresses(3, 8)
			}
			r.backends["far"].Pick.Prefix = &pick.Prefix{BlockTokens: 64, MaxBlocks: 200_000, MaxGapTokens: 16384}
			r.table.Prompts = true
			for name, backend := range map[string]string{"gpt-plain": "vllm", "gpt-pool": "gpu", "gpt-prompt": "far"} {
				r.add(name, models(name), choice{backend, ""})
			}
		})
	}
	run := func(b *testing.B, model string, in func(i int) []*extprocv3.ProcessingRequest) {
		s := setup(b)
		headers := requestHeaders(benchHeaders(), numbered(model, ""))
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			sc := script{in: append([]*extprocv3.ProcessingRequest{headers}, in(i)...), out: make([]*extprocv3.ProcessingResponse, 0, 4)}
			if err := s.server.Process(&sc); err != nil {
				b.Fatal(err)
			}
			s.record(sc.out[len(sc.out)-1], func(rec *usage.Record) { rec.Backend = "default/gpu" })
			i++
		}
		if n := s.desk.InFlight(); n > 0 {
			b.Fatalf("%d requests are left", n)
		}
	}
	none := func(int) []*extprocv3.ProcessingRequest { return nil }
	b.Run("nobody steers", func(b *testing.B) { run(b, "gpt-plain", none) })
	b.Run("pool", func(b *testing.B) { run(b, "gpt-pool", none) })
	b.Run("prompt", func(b *testing.B) {
		common := strings.Repeat("A document about something. ", 24_000/28)
		bodies := make([]*extprocv3.ProcessingRequest, 64)
		for i := range bodies {
			bodies[i] = bodyOf(fmt.Sprintf(`{"model":"gpt-prompt","messages":[{"role":"system","content":%q},{"role":"user","content":%q}]}`,
				common, strings.Repeat(fmt.Sprint("Question ", i, " of many. "), 24_000/24)))
		}
		run(b, "gpt-prompt", func(i int) []*extprocv3.ProcessingRequest { return bodies[i%len(bodies) : i%len(bodies)+1] })
	})
}
