package gpu

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// words are 64 of three letters each, so that one and a space make a token.
const words = "theandforyouarebutnotallcanhadheroneourouthasgetnewnowoldseetwowhosayshetoousewayanyfardayendlow" +
	"askbigtrysetruntopredsixtenwinsunseaiceoakowlfoxantbeecatdogelkgnuhenjaykoimapnetpinratrimsaptoy"

// answer is the text of n tokens that a prompt gets: its tokens have tokenBytes bytes each, so that any number of them can be cut off.
func answer(prompt string, seed uint64, n int) string {
	rnd := random(prompt, seed, 1)
	b := make([]byte, 0, n*tokenBytes)
	for range n {
		i := rnd.IntN(len(words) / 3)
		b = append(b, ' ')
		b = append(b, words[3*i:3*i+3]...)
	}
	if n > 0 {
		copy(b, "Well")
	}
	return string(b)
}

// length draws how many tokens a prompt is answered with: from a quarter to four times the median, and half of them below it.
func length(prompt string, seed uint64, median int) int {
	f := random(prompt, seed, 2).Float64()
	return max(1, int(float64(median)*math.Exp2(4*f-2)))
}

func random(prompt string, seed, stream uint64) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(prompt))
	return rand.New(rand.NewPCG(h.Sum64()^seed, stream))
}
