package model

import (
	"math/rand/v2"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// words are the vocabulary. Some are not ASCII on purpose: a gateway must never cut a rune in two
// and show it, and runes of two, three and four bytes are the way to see whether it does.
var words = strings.Fields(`the river water gate stone bridge valley stream current bank slow quick clear
deep quiet bright cold early morning evening season rain snow field forest mountain path village mill
boat lock channel level measure steady open close between under over across along toward beyond after
before while because often seldom always and then still again here there every another small large
café déjà naïve über piñata 漢字 水門 河川 日本語 данные поток 🌊 🚣 🏞️ é ß`)

// prose makes about n tokens of sentences after a lead that is kept whole (a lead longer than n is the
// whole text). It ends with a full stop when there is room for one.
func prose(rnd *rand.Rand, lead string, n int) []string {
	out := tokens.Split(lead)
	if n <= 0 {
		return out
	}
	fresh := len(out) == 0
	for len(out) < n {
		// One sentence of 5 to 14 words.
		count := 5 + rnd.IntN(10)
		var b strings.Builder
		for i := range count {
			w := words[rnd.IntN(len(words))]
			if i == 0 {
				w = upper(w)
			}
			if !fresh {
				b.WriteByte(' ')
			}
			fresh = false
			b.WriteString(w)
			if i > 1 && i < count-2 && rnd.IntN(7) == 0 {
				b.WriteByte(',')
			}
		}
		b.WriteByte('.')
		out = append(out, tokens.Split(b.String())...)
	}
	if lead != "" && n < len(tokens.Split(lead)) {
		return tokens.Split(lead)
	}
	if len(out) > n {
		out = out[:n]
		if n > 1 {
			out[n-1] = "."
		}
	}
	return out
}

// upper capitalises an ASCII first letter and leaves other scripts alone.
func upper(w string) string {
	if w[0] >= 'a' && w[0] <= 'z' {
		return string(w[0]-'a'+'A') + w[1:]
	}
	return w
}
