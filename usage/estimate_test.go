package usage

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/sim"
)

// TestShapes compares what nothing has been learned of with what the simulators send, which write as the providers do.
func TestShapes(t *testing.T) {
	for _, c := range []struct {
		kind          Kind
		dialect       sim.Dialect
		path, body    string
		header, value string
	}{
		{Kind{Dialect: "openai", Operation: "chat", Stream: true}, sim.OpenAI, "/v1/chat/completions",
			`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"%d words"}]}`, "authorization", "Bearer k"},
		{Kind{Dialect: "openai", Operation: "chat"}, sim.OpenAI, "/v1/chat/completions",
			`{"model":"gpt-4o","messages":[{"role":"user","content":"%d words"}]}`, "authorization", "Bearer k"},
		{Kind{Dialect: "openai", Operation: "responses", Stream: true}, sim.OpenAI, "/v1/responses",
			`{"model":"gpt-4o","stream":true,"input":"%d words"}`, "authorization", "Bearer k"},
		{Kind{Dialect: "openai", Operation: "responses"}, sim.OpenAI, "/v1/responses",
			`{"model":"gpt-4o","input":"%d words"}`, "authorization", "Bearer k"},
		{Kind{Dialect: "anthropic", Operation: "chat", Stream: true}, sim.Anthropic, "/v1/messages",
			`{"model":"claude-sonnet-4-5","stream":true,"max_tokens":5000,"messages":[{"role":"user","content":"%d words"}]}`, "anthropic-version", "2023-06-01"},
		{Kind{Dialect: "anthropic", Operation: "chat"}, sim.Anthropic, "/v1/messages",
			`{"model":"claude-sonnet-4-5","max_tokens":5000,"messages":[{"role":"user","content":"%d words"}]}`, "anthropic-version", "2023-06-01"},
		{Kind{Dialect: "dashscope", Operation: "chat", Stream: true}, sim.DashScope, "/api/v1/services/aigc/text-generation/generation",
			`{"model":"qwen-plus","input":{"messages":[{"role":"user","content":"%d words"}]},"parameters":{"incremental_output":true,"result_format":"message"}}`, "x-dashscope-sse", "enable"},
		{Kind{Dialect: "dashscope", Operation: "chat"}, sim.DashScope, "/api/v1/services/aigc/text-generation/generation",
			`{"model":"qwen-plus","input":{"messages":[{"role":"user","content":"%d words"}]},"parameters":{"result_format":"message"}}`, "authorization", "Bearer k"},
	} {
		t.Run(fmt.Sprintf("%s %s stream=%t", c.kind.Dialect, c.kind.Operation, c.kind.Stream), func(t *testing.T) {
			s, err := sim.New(sim.Options{Dialect: c.dialect, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
			if err != nil {
				t.Fatal(err)
			}
			ask := func(words int) int64 {
				req := httptest.NewRequest("POST", c.path, strings.NewReader(fmt.Sprintf(c.body, words)))
				req.Header.Set("content-type", "application/json")
				if c.dialect == sim.Anthropic {
					req.Header.Set("x-api-key", "k")
				} else {
					req.Header.Set("authorization", "Bearer k")
				}
				req.Header.Set(c.header, c.value)
				w := httptest.NewRecorder()
				s.ServeHTTP(w, req)
				if w.Code != 200 {
					t.Fatalf("%d: %s", w.Code, w.Body)
				}
				return int64(w.Body.Len())
			}
			e := NewEstimator()
			for _, words := range []int64{40, 100, 500, 2000} { // as many tokens
				bytes := ask(int(words))
				if got := e.Output(c.kind, bytes); math.Abs(float64(got-words)) > 8+.06*float64(words) {
					t.Errorf("%d tokens in %d bytes were estimated as %d", words, bytes, got)
				}
			}
		})
	}
}

func TestEstimatorLearns(t *testing.T) {
	e := NewEstimator()
	chat := Kind{Backend: "ns/a", Model: "m", Dialect: "openai", Operation: "chat"}
	stream, other, elsewhere := chat, chat, chat
	stream.Stream = true
	other.Model = "n"
	elsewhere.Dialect = "anthropic"
	if got := e.Input(chat, 4000); got != 1000 {
		t.Errorf("4000 bytes are %d tokens before anything is learned", got)
	}
	for range 200 {
		e.Learn(chat, 4000, 560+2000, Tokens{Input: 400, CacheRead: 1000, CacheWrite: 600, Output: 600, Reasoning: 400})
	}
	near := func(what string, got, want, off int64) {
		t.Helper()
		if got < want-off || got > want+off {
			t.Errorf("%s: %d tokens, want %d", what, got, want)
		}
	}
	near("input of the same size", e.Input(chat, 4000), 2000, 10)
	near("output", e.Output(chat, 560+2000), 1000, 10)
	near("input of another size", e.Input(chat, 400_000), 100_000, 0)
	near("output of a stream", e.Output(stream, 300+27_700), 100, 0)
	near("another model of the dialect", e.Input(other, 4000), 2000, 10)
	near("another dialect", e.Input(elsewhere, 4000), 1000, 0)
	for range 200 {
		e.Learn(chat, 4000, 560+4000, Tokens{Input: 1000, Output: 1000})
	}
	near("input after a change", e.Input(chat, 4000), 1000, 10)
	near("output after a change", e.Output(chat, 560+2000), 500, 5)

	unknown := Kind{Model: "gpt", Dialect: "dashscope", Operation: "chat"}
	for range 50 {
		e.LearnInput(unknown, 1000, Tokens{Input: 150})
	}
	near("by the caller's model", e.Input(unknown, 1000), 150, 5)
}

// TestEstimatesStayInBounds: reports that make no sense neither break estimates nor push them out of all proportion.
func TestEstimatesStayInBounds(t *testing.T) {
	e := NewEstimator()
	r := rand.New(rand.NewPCG(7, 8))
	k := Kind{Backend: "ns/a", Model: "m", Dialect: "openai", Operation: "chat"}
	some := func() int64 { return int64(r.Uint64()>>r.IntN(64)) * int64(1-2*r.IntN(2)) }
	for range 5000 {
		e.Learn(k, some(), some(), TokensOf(usageOf(some(), some(), some(), some(), some())))
		bytes := some()
		for _, got := range []int64{e.Input(k, bytes), e.Output(k, bytes)} {
			if got < 0 || got > maxTokens || bytes <= 0 && got != 0 {
				t.Fatalf("%d bytes are %d tokens", bytes, got)
			}
		}
		if bytes <= 0 || bytes > 1<<28 {
			continue
		}
		if got := e.Input(k, bytes); got < bytes/8 || got > bytes*2/3+1 {
			t.Fatalf("%d bytes of a prompt are %d tokens", bytes, got)
		}
		text := float64(max(0, bytes-shapeOf(k).around)) / shapeOf(k).perToken
		if got := float64(e.Output(k, bytes)); got < math.Floor(text/4) || got > math.Ceil(text*16)+1 {
			t.Fatalf("%d bytes of an answer are %g tokens", bytes, got)
		}
	}
}

// TestEstimatesCannotBePoisoned: what some callers make the estimator learn of a model, on purpose, changes what others
// are charged by no more than the differences between languages do.
func TestEstimatesCannotBePoisoned(t *testing.T) {
	chat := Kind{Backend: "ns/a", Model: "m", Dialect: "openai", Operation: "chat"}
	stream := chat
	stream.Stream = true
	admission := Kind{Model: "m", Dialect: "openai", Operation: "chat"}
	const prompt = 100_000 // bytes, 25,000 tokens
	type between struct{ least, most int64 }
	for _, c := range []struct {
		name          string
		in            int64   // bytes of the bodies
		perToken      float64 // times what is usual of an answer
		tokens        Tokens
		input, output between // what others are charged for the prompt, and for a thousand tokens
	}{
		{"prompts padded with white space", prompt, 1, Tokens{Input: 9, Output: 10}, between{12_500, 25_000}, between{990, 1010}},
		{"answers with log-probabilities", 4000, 20, Tokens{Input: 1000, Output: 1000}, between{25_000, 25_000}, between{250, 1000}},
		{"pictures by reference", prompt, 1, Tokens{Input: 10 * prompt, Output: 10}, between{25_000, 66_667}, between{990, 1010}},
		{"hidden reasoning", 4000, .001, Tokens{Input: 1000, Reasoning: 100_000}, between{25_000, 25_000}, between{1000, 16_000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := NewEstimator()
			written := func(k Kind, tokens int64, times float64) int64 {
				return shapeOf(k).around + int64(times*shapeOf(k).perToken*float64(tokens))
			}
			for range 300 {
				for _, k := range []Kind{chat, stream} {
					e.Learn(k, c.in, written(k, c.tokens.OutputTotal(), c.perToken), c.tokens)
				}
				e.LearnInput(admission, c.in, c.tokens)
			}
			for _, g := range []struct {
				what string
				got  int64
				want between
			}{
				{"a prompt", e.Input(chat, prompt), c.input},
				{"a prompt on admission", e.Input(admission, prompt), c.input},
				{"a whole answer", e.Output(chat, written(chat, 1000, 1)), c.output},
				{"a stream", e.Output(stream, written(stream, 1000, 1)), c.output},
			} {
				if g.got < g.want.least || g.got > g.want.most {
					t.Errorf("%s is %d tokens, not between %d and %d", g.what, g.got, g.want.least, g.want.most)
				}
			}
		})
	}
}

// TestEstimatorIsBounded: callers who make up names of models take no memory, and do not drive out what is in use.
func TestEstimatorIsBounded(t *testing.T) {
	e := NewEstimator()
	k := Kind{Backend: "ns/a", Model: "busy", Dialect: "openai", Operation: "chat"}
	for range 100 {
		e.Learn(k, 4000, 0, Tokens{Input: 2000})
	}
	for i := range 5 * maxKinds {
		e.Learn(Kind{Backend: "ns/b", Model: fmt.Sprint("invented-", i), Dialect: "anthropic", Operation: "chat"}, 4000, 0, Tokens{Input: 500})
		_ = e.Input(k, 4000) // is in use
	}
	n := 0
	for i := range e.shards {
		n += len(e.shards[i].m)
	}
	if n > maxKinds || n < maxKinds/2 {
		t.Errorf("%d kinds are kept", n)
	}
	if e.get(k.key()) == nil {
		t.Error("a model in use was forgotten")
	}
}

func TestEstimatorIsSafe(t *testing.T) {
	e := NewEstimator()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				k := Kind{Model: fmt.Sprint("m", (g*2000+i)%500), Dialect: "openai", Operation: "chat"}
				e.Learn(k, 4000, 1560, Tokens{Input: 1000, Output: 250})
				if got := e.Input(k, 4000); got != 1000 {
					t.Errorf("got %d", got)
				}
			}
		})
	}
	wg.Wait()
}

func TestBodyClass(t *testing.T) {
	last := 0
	for bytes := int64(-1); bytes < 1<<20; bytes++ {
		c := bodyClass(bytes)
		if c < last || c > last+1 {
			t.Fatalf("%d bytes are of class %d after %d", bytes, c, last)
		}
		if c > last && bytes != []int64{0, 512, 2 << 10, 8 << 10, 32 << 10, 256 << 10}[c] {
			t.Fatalf("class %d begins at %d", c, bytes)
		}
		last = c
	}
	if last != bodyClasses-1 || bodyClass(math.MaxInt64) != last {
		t.Errorf("the last class is %d", last)
	}
}

func BenchmarkEstimate(b *testing.B) {
	e := NewEstimator()
	k := Kind{Backend: "ns/a", Model: "m", Dialect: "openai", Operation: "chat", Stream: true}
	e.Learn(k, 4000, 1560, Tokens{Input: 1000, Output: 250})
	b.Run("Input", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = e.Input(k, 4000)
		}
	})
	b.Run("Learn", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.Learn(k, 4000, 1560, Tokens{Input: 1000, Output: 250})
		}
	})
}
