package compile

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/peekjson"
	"github.com/weir-dev/weir/extproc/wire"
)

// asReader compares what the filter says of a body with what the reader in Go says. Every body of every test of the filter comes here.
func asReader(t testing.TB, body string, filter peeked) {
	t.Helper()
	f := peekjson.Read([]byte(body))
	var limits []string
	for _, l := range [][2]string{
		{wire.PeekN, f.N}, {wire.PeekMaxTokens, f.MaxTokens}, {wire.PeekMaxOutputTokens, f.MaxOutputTokens},
		{wire.PeekMaxCompletionTokens, f.MaxCompletionTokens},
	} {
		if l[1] != "" {
			limits = append(limits, l[0]+"="+l[1])
		}
	}
	want := filter
	want.err, want.model, want.stream, want.limits = f.Err, f.Model, f.Stream, strings.Join(limits, " ")
	want.media, want.mediaCount = int(f.Media), int(f.MediaCount)
	if filter != want {
		t.Errorf("%.300q:\n the reader %+v\n the filter %+v", body, want, filter)
	}
}

// TestReaderEqualsFilter runs both over pieces of JSON put together at random, and over those with one byte changed and cut off.
func TestReaderEqualsFilter(t *testing.T) {
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
	var bodies []string
	rng := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		bodies = append(bodies, randomMedia(rng))
	}
	for range 6000 {
		bodies = append(bodies, randomBody(rng))
	}
	for _, b := range bodies {
		p.body(t, b)
		if n := len(b); n > 0 && n < 4096 {
			i := rng.IntN(n)
			p.body(t, b[:i]+string("\"\\{}[],:0x\x00\xff\xc3 "[rng.IntN(14)])+b[i+1:])
			p.body(t, b[:i])
		}
		if t.Failed() {
			return
		}
	}
}

// randomBody puts pieces together that a parser may trip over.
func randomBody(rng *rand.Rand) string {
	pieces := []string{
		`{`, `}`, `[`, `]`, `,`, `:`, `"`, `\`, ` `, "\n", `"model"`, `"stream"`, `"Model"`, `"STREAM"`, `"n"`, `"max_tokens"`, `"max?tokens"`,
		`"max_output_tokens"`, `"max_completion_tokens"`, `"m"`, `"a\"b"`, `"\u00e9"`, `"\u00g9"`, `"é"`, "\"\xff\"", `true`, `false`, `null`, `tru`, `0`,
		`-1`, `1.5e+3`, `01`, `1.`, `1e`, `"long` + strings.Repeat("x", 1030) + `"`, strings.Repeat("1", 33), "\x00", "\x7f", "é",
	}
	var b strings.Builder
	if rng.IntN(4) > 0 { // mostly sound
		b.WriteString("{")
		for i := range rng.IntN(5) {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(pieces[10+rng.IntN(9)] + ":" + pieces[19+rng.IntN(len(pieces)-19)])
		}
		b.WriteString("}")
	}
	for range rng.IntN(6) {
		b.WriteString(pieces[rng.IntN(len(pieces))])
	}
	return b.String()
}

// TestReaderEqualsFilterDeep: nesting ends at the same depth.
func TestReaderEqualsFilterDeep(t *testing.T) {
	p := newPeeker(t, script(false, ""), "/v1/chat/completions")
	for _, n := range []int{9998, 9999, 10000, 10001} {
		p.body(t, `{"a":`+strings.Repeat("[", n)+strings.Repeat("]", n)+`}`)
	}
}

func FuzzReaderEqualsFilter(f *testing.F) {
	for _, b := range []string{``, ` `, `{}`, `{"model":"m","stream":true}`, `{"a":[{"b":"\u00ff"}],"n":2}`, `{"model":1}x`, `{"Model":1}`} {
		f.Add(b)
	}
	p := newPeeker(f, script(false, ""), "/v1/chat/completions")
	f.Fuzz(func(t *testing.T, body string) { p.body(t, body) })
}
