package responses

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/session"
)

var answer = &canon.Response{Parts: []canon.Part{text(strings.Repeat("and some words of what is answered, ", 22))}, Finish: canon.FinishStop}

// BenchmarkExchange is a request that continues so many turns of about 1 KB each, with all of them in its chat, and its answer kept.
func BenchmarkExchange(b *testing.B) {
	for _, turns := range []int{3, 20, 100} {
		b.Run(fmt.Sprint(turns), func(b *testing.B) {
			r := newRig(b, func(p *session.Policy) { p.KeepTurns = turns })
			last := ""
			next := func() {
				body := `{"model":"m","input":"` + strings.Repeat("some words of a question, ", 8) + `"`
				if last != "" {
					body += `,"previous_response_id":"` + last + `"`
				}
				x := r.begin(r.caller, body+"}")
				x.Dialect().In.AppendResponse(nil, answer, x.Reply())
				last = "resp_" + x.Reply().ID
			}
			for range turns {
				next()
			}
			b.ReportAllocs()
			for b.Loop() {
				next()
			}
		})
	}
}
