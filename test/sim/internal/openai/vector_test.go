package openai

import (
	"math"
	"testing"
)

func TestVectorsOfTexts(t *testing.T) {
	cosine := func(a, b string, size int) (sum float64) {
		x, y := vector(7, a, size), vector(7, b, size)
		for i := range x {
			sum += float64(x[i]) * float64(y[i])
		}
		return sum
	}
	for _, c := range []struct {
		a, b     string
		from, to float64
	}{
		{"What is the capital of France?", "What is the capital of France?", 0.9999, 1.0001},
		{"What is the capital of France?", "what is the capital of france", 0.99, 0.9999},
		{"What is the capital of France?", "Of France, what is the capital?", 0.99, 0.9999},
		{"What is the capital of France?", "What is the capital of Spain?", 0.7, 0.95},
		{"What is the capital of France?", "How do I bake bread without yeast", -0.2, 0.2},
		{"", "", 0.9999, 1.0001},
		{"[1,2,3]", "[4,5,6]", -0.2, 0.2},
	} {
		if got := cosine(c.a, c.b, 1536); got < c.from || got > c.to {
			t.Errorf("%q and %q: %.4f, want %v to %v", c.a, c.b, got, c.from, c.to)
		}
	}
	for size := 1; size < 5; size++ {
		if got := cosine("a b", "a b", size); math.Abs(got-1) > 1e-6 {
			t.Errorf("in %d dimensions a vector has the length %v", size, got)
		}
	}
}
