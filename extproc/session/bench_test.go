package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// prose is a text of n bytes that is compressed about as well as English is: always the same one.
func prose(n int) string {
	words := strings.Fields(`the of and a to in is was he for it with as his on be at by had not are but from or have an they which one you were
		all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new
		some could these two may first then do any like my now over such our man me even most made after also did many off before must well back
		through years where much your way down should because long each just state people those too mr how little good world make very year still
		see work life government children himself water between another house`)
	random := rand.New(rand.NewPCG(1, 1))
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[int(float64(len(words))*random.Float64()*random.Float64())])
		b.WriteByte(" \n"[random.IntN(20)/19])
		fmt.Fprintf(&b, "%.*s", random.IntN(2)*random.IntN(5), fmt.Sprint(random.Uint32()))
	}
	return b.String()[:n]
}

// BenchmarkTurn is a request in a conversation that has so many turns of about 1 KB each, and keeps no more: what is read, added, and
// written. The store is in memory; with Redis the same bytes are sent.
func BenchmarkTurn(b *testing.B) {
	text := prose(101 << 10)
	for _, turns := range []int{3, 20, 100} {
		for _, sealed := range []bool{false, true} {
			name := "plain"
			change := []func(*Policy){func(p *Policy) { p.KeepTurns = turns }}
			if sealed {
				name = "sealed"
				change = append(change, encrypted(mustKey(b, 1)))
			}
			b.Run(fmt.Sprintf("%d/%s", turns, name), func(b *testing.B) { benchmarkTurn(b, policyOf(change...), turns, text) })
		}
	}
	b.Run("100/machine", func(b *testing.B) { benchmarkTurn(b, policyOf(with(b), encrypted(mustKey(b, 1))), 100, text) })
}

func benchmarkTurn(b *testing.B, p *Policy, turns int, text string) {
	r := newRig(b, nil, p)
	say := func(i int) {
		said := strings.ToValidUTF8(text[i<<10:(i+1)<<10], "")
		r.say(p, ana, said[:200], said[200:])
	}
	for i := range turns {
		say(i)
	}
	blob, _, _ := r.memory.Get(context.Background(), ana.Ref())
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		say(i % turns)
		i++
	}
	b.ReportMetric(float64(len(blob)), "stored-bytes")
}
