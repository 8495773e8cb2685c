package extproc

import (
	"fmt"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/adapters/canon"
)

// tokens are pieces of a stream of the dialect, one event each, that repeat for ever.
func tokens(dialect string) (pieces []*extprocv3.HttpBody) {
	format := map[string]string{
		"openai":    `data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}` + "\n\n",
		"anthropic": "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":%q}}\n\n",
		"dashscope": "event:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"choices\":[{\"message\":{\"content\":%q},\"finish_reason\":\"null\"}]},\"usage\":{\"input_tokens\":5,\"output_tokens\":2},\"request_id\":\"r\"}\n\n",
	}[dialect]
	for _, word := range strings.SplitAfter("The quick brown\n fox \"jumps\" over the lazy dog \u4e16\u754c again", " ") {
		pieces = append(pieces, piece(fmt.Sprintf(format, word), false))
	}
	return pieces
}

// flows are the ways of an answer's pieces through Weir, each with its buffers grown: translated in both modes, and metered.
func flows(t testing.TB) map[string]func() {
	out := map[string]func(){}
	add := func(name, dialect string, on func(*extprocv3.HttpBody) *extprocv3.ProcessingResponse) {
		pieces, next := tokens(dialect), 0
		out[name] = func() {
			mutation := on(pieces[next]).GetResponseBody().GetResponse().GetBodyMutation()
			if len(mutation.GetBody())+len(mutation.GetStreamedResponse().GetBody()) == 0 {
				t.Fatalf("%s: nothing takes the place of %s", name, pieces[next].GetBody())
			}
			next = (next + 1) % len(pieces)
		}
		for range pieces {
			out[name]()
		}
	}
	never := after(1 << 40)
	for _, backend := range []string{"anthropic", "dashscope"} {
		a := answerOn(t, backend, true)
		a.account = &tokenCount{}
		add("translated/"+backend, backend, a.onBody)
		a = answerOn(t, backend, true)
		a.account, a.stop, a.duplex = &tokenCount{}, never, true
		add("translated and metered/"+backend, backend, a.onBody)
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		m := meterOf(t, dialect, &book{}, never)
		m.account = &tokenCount{}
		add("metered/"+dialect, dialect, m.onBody)
	}
	return out
}

// tokenCount is an account that keeps no list.
type tokenCount struct{ book }

func (c *tokenCount) Report(canon.Usage, bool) {}

// BenchmarkPiece handles one piece of an answer that holds one event.
func BenchmarkPiece(b *testing.B) {
	for name, step := range flows(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}

// TestPiecesAllocateNothing: it is what Weir does for each token, besides gRPC.
func TestPiecesAllocateNothing(t *testing.T) {
	for name, step := range flows(t) {
		if n := testing.AllocsPerRun(200, step); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
