package openai

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"unicode"
)

// How a text becomes a vector: each word is a direction of its own, so that texts with many words in common are near each other and others
// are not, as with a real model. How the words are put together counts a little.
const (
	places    = 64   // of a vector that a word adds to
	wordOrder = 0.05 // weight of the text as a whole, to that of one word
)

// vector is the unit vector of a text. The same words in another order, or with other marks between them, have a cosine of 0.99 and more; two
// texts of n words that have k of them in common one of about k/n.
func vector(seed uint64, text string, size int) []float32 {
	v := make([]float64, size)
	add := func(of string, weight float64) {
		h := fnv.New64a()
		h.Write([]byte(of))
		rnd := rand.New(rand.NewPCG(h.Sum64(), seed))
		for range places {
			if at := rnd.IntN(size); rnd.IntN(2) == 0 {
				v[at] += weight
			} else {
				v[at] -= weight
			}
		}
	}
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) }) {
		add(word, 1)
	}
	add("\x00"+text, wordOrder) // no word: it has a NUL
	var sum float64
	for _, x := range v {
		sum += x * x
	}
	if sum == 0 { // in few dimensions all may have cancelled out
		v[0], sum = 1, 1
	}
	out := make([]float32, size)
	for i, x := range v {
		out[i] = float32(x / math.Sqrt(sum))
	}
	return out
}
