package semantic

import (
	"errors"
	"math"
)

// block is how many numbers are multiplied between two looks at whether a vector can still be near enough. Rows are padded with zeros
// to a multiple of it.
const block = 128

// slack is what rounding may add to or take from the similarity of two vectors of a few thousand numbers.
const slack = 1e-5

var errNoDirection = errors.New("the embedding has no direction: it is all zeros, or has numbers that are none")

// vector is an embedding of length 1, ready to be compared.
type vector struct {
	dims int
	x    []float32 // padded
	// rest[k] is the length of x[k*block:], what blocks from k on can add to a product at most, with the other's.
	rest []float32
}

// newVector makes a vector of an embedding.
func newVector(embedding []float32) (vector, error) {
	var sum float64
	for _, f := range embedding {
		sum += float64(f) * float64(f)
	}
	if !(sum > 0) || math.IsInf(sum, 1) {
		return vector{}, errNoDirection
	}
	blocks := (len(embedding) + block - 1) / block
	// One piece of memory for both.
	all := make([]float32, blocks*block+blocks)
	v := vector{dims: len(embedding), x: all[: blocks*block : blocks*block], rest: all[blocks*block:]}
	scale := 1 / math.Sqrt(sum)
	for i, f := range embedding {
		v.x[i] = float32(float64(f) * scale)
	}
	var rest float64
	for k := blocks - 1; k >= 0; k-- {
		for _, f := range v.x[k*block : (k+1)*block] {
			rest += float64(f) * float64(f)
		}
		v.rest[k] = float32(math.Sqrt(rest))
	}
	return v, nil
}

// similarity is the cosine of the angle between two vectors of the same dimensions. near is false, and the similarity unknown, once it is
// certain to be below least: most vectors are told apart by a few of their blocks (Cauchy and Schwarz bound the others).
func (v *vector) similarity(o *vector, least float32) (s float32, near bool) {
	for k := range v.rest {
		if s+v.rest[k]*o.rest[k] < least-slack {
			return 0, false
		}
		s += dot((*[block]float32)(v.x[k*block:]), (*[block]float32)(o.x[k*block:]))
	}
	return s, s >= least-slack
}

// dot multiplies two blocks. Eight sums that do not wait for each other keep the processor's units busy, and constant bounds
// spare the checks.
func dot(a, b *[block]float32) float32 {
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for i := 0; i < block; i += 8 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
		s4 += a[i+4] * b[i+4]
		s5 += a[i+5] * b[i+5]
		s6 += a[i+6] * b[i+6]
		s7 += a[i+7] * b[i+7]
	}
	return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
}

// bytes that the vector takes.
func (v *vector) bytes() int64 { return 4 * int64(len(v.x)+len(v.rest)) }
