package semantic

import (
	"math"
	"math/rand/v2"
	"testing"
)

func random(rnd *rand.Rand, dims int) []float32 {
	v := make([]float32, dims)
	for i := range v {
		v[i] = float32(rnd.NormFloat64())
	}
	return v
}

// beside gives a vector at about the cosine given from another.
func beside(rnd *rand.Rand, v []float32, cosine float64) []float32 {
	a, b := unit(v), unit(random(rnd, len(v)))
	out := make([]float32, len(v))
	sine := math.Sqrt(1 - cosine*cosine)
	for i := range out {
		out[i] = float32(cosine*a[i] + sine*b[i])
	}
	return out
}

func unit(v []float32) []float64 {
	var sum float64
	for _, f := range v {
		sum += float64(f) * float64(f)
	}
	out := make([]float64, len(v))
	for i, f := range v {
		out[i] = float64(f) / math.Sqrt(sum)
	}
	return out
}

// cosine in float64: the judge.
func cosine(a, b []float32) float64 {
	x, y := unit(a), unit(b)
	var s float64
	for i := range x {
		s += x[i] * y[i]
	}
	return s
}

func TestSimilarity(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	given, up := 0, 0
	for range 4000 {
		dims := []int{1, 3, 127, 128, 129, 768, 1536}[rnd.IntN(7)]
		a := random(rnd, dims)
		want := rnd.Float64()*2 - 1
		b := beside(rnd, a, want)
		for i := range b {
			b[i] *= 1000 // the length does not matter
		}
		va, err := newVector(a)
		vb, err2 := newVector(b)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		least := float32(rnd.Float64()*2 - 1)
		s, near := va.similarity(&vb, least)
		exact := cosine(a, b)
		switch {
		case near && math.Abs(float64(s)-exact) > slack:
			t.Fatalf("%d dimensions: %v, exactly %v", dims, s, exact)
		case near != (exact >= float64(least)) && math.Abs(exact-float64(least)) > 2*slack:
			t.Fatalf("%d dimensions: %v is near %v: %v", dims, exact, least, near)
		case near:
			given++
		default:
			up++
		}
	}
	if given < 500 || up < 500 {
		t.Errorf("%d near and %d not: the test shows nothing", given, up)
	}
}

func TestNoDirection(t *testing.T) {
	for _, v := range [][]float32{nil, {0, 0}, {float32(math.NaN()), 1}, {float32(math.Inf(1)), 1}} {
		if _, err := newVector(v); err == nil {
			t.Errorf("%v is taken", v)
		}
	}
	if v, err := newVector([]float32{math.MaxFloat32, 1e-30}); err != nil || v.x[0] != 1 {
		t.Errorf("a long vector: %v, %v", v.x, err)
	}
}
