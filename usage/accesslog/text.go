package accesslog

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/internal/redact"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/money"
)

// clockFormat is what people need of the time, in theirs.
const clockFormat = "15:04:05.000"

// appendText appends a line for people:
//
//	12:03:44.125 200 POST /v1/chat/completions  gpt-4o > default/openai  1.204s, first token 0.08s  12+40 tokens, 0.00042 USD  demo  3f2a...
func appendText(b []byte, f *usage.Finished) []byte {
	r := read(f)
	plain := func(s string) { b = appendPlain(b, s) }
	b = r.began.Local().AppendFormat(b, clockFormat)
	b = append(b, ' ')
	if r.Status == 0 {
		b = append(b, "---"...)
	} else {
		b = strconv.AppendInt(b, int64(r.Status), 10)
	}
	for _, s := range []string{r.Method, redact.Path(r.Path)} {
		if s != "" {
			b = append(b, ' ')
			plain(s)
		}
	}
	gap := func() { b = append(b, ' ', ' ') }
	if r.Model != "" || r.backend != "" {
		gap()
		plain(r.Model)
		if r.backend != "" {
			b = append(b, " > "...)
			plain(r.backend)
		}
		if r.attempts > 1 {
			b = append(b, " (attempt "...)
			b = strconv.AppendInt(b, int64(r.attempts), 10)
			b = append(b, ')')
		}
	}
	if kind := r.refusal(); kind != "" {
		gap()
		b = append(b, "refused: "...)
		plain(cmp.Or(r.Refusal, kind))
	}
	gap()
	b = append(appendSeconds(b, r.Duration), 's')
	if r.FirstToken > 0 {
		b = append(b, ", first token "...)
		b = append(appendSeconds(b, r.FirstToken), 's')
	}
	if e := r.entry; e != nil && e.Tokens.Total() > 0 {
		gap()
		b = strconv.AppendInt(b, e.Tokens.InputTotal(), 10)
		b = append(b, '+')
		b = strconv.AppendInt(b, e.Tokens.OutputTotal(), 10)
		b = append(b, " tokens"...)
		if !e.Unpriced {
			b = append(b, ", "...)
			b = money.Nano(e.Cost).Append(b)
			b = append(b, ' ')
			b = append(b, e.Currency...)
		}
	}
	if e := r.entry; e != nil && e.SavedCost > 0 {
		gap()
		b = append(b, "saved "...)
		b = money.Nano(e.SavedCost).Append(b)
		b = append(b, ' ')
		b = append(b, e.Currency...)
	}
	if names := r.flags().Names(); len(names) > 0 {
		gap()
		b = append(b, strings.Join(names, ", ")...)
	}
	for _, s := range []string{r.Consumer, r.RequestID} {
		if s != "" {
			gap()
			plain(s)
		}
	}
	return append(b, '\n')
}

// maxPlain bytes of a text are shown.
const maxPlain = 128

// appendPlain appends a text so that it neither ends the line nor steers the terminal.
func appendPlain(b []byte, s string) []byte { return appendEscaped(b, s, maxPlain, false) }
