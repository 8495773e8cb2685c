package usage

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/weir-dev/weir/adapters/canon"
)

// Kind is what requests have in common whose tokens take about the same number of bytes.
type Kind struct {
	// Backend and Model: the backend's ID and its own name of the model. Before a backend is chosen, Backend
	// is "" and Model the caller's name.
	Backend, Model string
	// Dialect is the caller's: bytes are counted on the caller's side.
	Dialect   string
	Operation string
	Stream    bool
}

// Estimator says how many tokens bytes are, where nobody has counted them: before a request is served, and when no
// report of the provider came. It learns from the requests whose report came. It is safe for concurrent use.
type Estimator struct {
	seed   maphash.Seed
	clock  atomic.Uint32 // counts what was learned; orders models by when they were last used
	shards [estimatorShards]estimatorShard
}

const (
	estimatorShards = 16 // a power of two
	// maxKinds bounds the memory, at about 300 bytes each: callers make up names of models, and some backends serve any.
	maxKinds = 4096
)

type estimatorShard struct {
	mu sync.RWMutex
	m  map[kindKey]*kindRatios
	_  [32]byte // keep neighbours off one cache line
}

// kindKey is a Kind; whether it is a stream is an index of ratios.
type kindKey struct{ backend, model, dialect, operation string }

// kindRatios are bytes per token.
type kindRatios struct {
	used atomic.Uint32
	// in is by size of the body: a short one is mostly JSON around few words, a huge one is mostly documents.
	in  [bodyClasses]ratio
	out [2]ratio // whole answers, streams
}

// NewEstimator makes an Estimator that has learned nothing.
func NewEstimator() *Estimator {
	e := &Estimator{seed: maphash.MakeSeed()}
	for i := range e.shards {
		e.shards[i].m = map[kindKey]*kindRatios{}
	}
	return e
}

// bodyClasses are bodies below 512 bytes, 2 KiB, 8 KiB, 32 KiB, 256 KiB, and larger ones.
const bodyClasses = 6

func bodyClass(bytes int64) int {
	switch n := bits.Len64(uint64(max(0, bytes))); {
	case n <= 9:
		return 0
	case n <= 15:
		return (n - 8) / 2
	case n <= 18:
		return 4
	}
	return 5
}

// bounds of what is learned of bytes per token. All callers share what is learned, so none may teach what would let others
// pay next to nothing, or far too much: with a prompt of white space, or log-probabilities of each token.
type bounds struct{ least, most float64 }

// bytesPerInput token, before anything is learned: of English text, with the JSON around it.
const bytesPerInput = 4

// inputBounds are those of text in any language: some tokenizers take two bytes of Chinese for a token, and clients that escape
// all but ASCII write six for a character.
func inputBounds() bounds { return bounds{1.5, 8} }

// outputBounds of answers of a shape. Some backends put a dozen tokens into an event, and some report reasoning that they do not
// show; but a token does not take several times its event.
func outputBounds(perToken float64) bounds { return bounds{perToken / 16, perToken * 4} }

// shape is how an answer grows: what stands around it, and what each token adds before anything is learned.
type shape struct {
	around   int64
	perToken float64
}

// shapeOf an answer, measured with the simulators, which write as the providers do (TestShapes). A stream has an event for
// each token; what stands around it is what comes before the first one, because a stream that breaks off has no more.
func shapeOf(k Kind) shape {
	responses := k.Operation == string(canon.OpResponses)
	switch {
	case k.Stream && responses:
		return shape{2600, 250}
	case k.Stream && k.Dialect == "anthropic":
		return shape{550, 120}
	case k.Stream && k.Dialect == "dashscope":
		return shape{0, 304}
	case k.Stream:
		return shape{300, 277}
	case responses:
		return shape{1010, 4.8}
	case k.Dialect == "anthropic":
		return shape{380, 4.8}
	case k.Dialect == "dashscope":
		return shape{245, 4.8}
	}
	return shape{560, 4.8}
}

// Input estimates the tokens of a request body of so many bytes.
func (e *Estimator) Input(k Kind, bytes int64) int64 {
	class := bodyClass(bytes)
	return e.estimate(k, bytes, bytesPerInput, inputBounds(), func(r *kindRatios) *ratio { return &r.in[class] })
}

// BytesPerToken is the number of bytes by which Input divides those of a request body that is about as large.
func (e *Estimator) BytesPerToken(k Kind, bytes int64) float64 {
	class := bodyClass(bytes)
	return e.perToken(k, bytesPerInput, inputBounds(), func(r *kindRatios) *ratio { return &r.in[class] })
}

// Output estimates the tokens of an answer, or of a part of it, of so many bytes.
func (e *Estimator) Output(k Kind, bytes int64) int64 {
	shape, stream := shapeOf(k), index(k.Stream)
	return e.estimate(k, bytes-shape.around, shape.perToken, outputBounds(shape.perToken), func(r *kindRatios) *ratio { return &r.out[stream] })
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// estimate goes from the general to the particular: what is known of a dialect stands in for what is not known of a model.
func (e *Estimator) estimate(k Kind, bytes int64, perToken float64, b bounds, of func(*kindRatios) *ratio) int64 {
	if bytes <= 0 {
		return 0
	}
	return within(int64(math.Ceil(float64(bytes)/e.perToken(k, perToken, b, of))), maxTokens)
}

// perToken is what has been learned, or what is assumed.
func (e *Estimator) perToken(k Kind, assumed float64, b bounds, of func(*kindRatios) *ratio) float64 {
	for _, key := range [...]kindKey{k.general(), k.key()} {
		if r := e.get(key); r != nil {
			assumed = b.clamp(of(r).of(assumed))
		}
	}
	return assumed
}

func (k Kind) key() kindKey { return kindKey{k.Backend, k.Model, k.Dialect, k.Operation} }

// general is of all models that are asked in one way.
func (k Kind) general() kindKey { return kindKey{dialect: k.Dialect, operation: k.Operation} }

func (b bounds) clamp(perToken float64) float64 { return min(max(perToken, b.least), b.most) }

// Learn takes in a finished request: the bytes of its body, those of its whole answer, and what the provider reported. Of
// a body or an answer without bytes it learns nothing.
func (e *Estimator) Learn(k Kind, in, out int64, t Tokens) {
	shape := shapeOf(k)
	out -= shape.around
	for _, key := range [...]kindKey{k.general(), k.key()} {
		r := e.getOrMake(key)
		r.in[bodyClass(in)].add(in, t.InputTotal(), inputBounds())
		r.out[index(k.Stream)].add(out, t.OutputTotal(), outputBounds(shape.perToken))
	}
}

// LearnInput takes in the input alone, for a Kind whose backend is not chosen.
func (e *Estimator) LearnInput(k Kind, in int64, t Tokens) {
	if in > 0 {
		e.getOrMake(k.key()).in[bodyClass(in)].add(in, t.InputTotal(), inputBounds())
	}
}

func (e *Estimator) shard(k kindKey) *estimatorShard {
	return &e.shards[(maphash.String(e.seed, k.model)^maphash.String(e.seed, k.backend))%estimatorShards]
}

func (e *Estimator) get(k kindKey) *kindRatios {
	s := e.shard(k)
	s.mu.RLock()
	r := s.m[k]
	s.mu.RUnlock()
	if r != nil {
		e.touch(r)
	}
	return r
}

// touch notes the use, but writes seldom: many cores read the same line.
func (e *Estimator) touch(r *kindRatios) {
	if now := e.clock.Load(); now-r.used.Load() > maxKinds/32 {
		r.used.Store(now)
	}
}

func (e *Estimator) getOrMake(k kindKey) *kindRatios {
	if r := e.get(k); r != nil {
		return r
	}
	s := e.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.m[k]; r != nil {
		return r
	}
	now := e.clock.Add(1)
	if len(s.m) >= maxKinds/estimatorShards {
		s.evict(now)
	}
	r := &kindRatios{}
	r.used.Store(now)
	s.m[k] = r
	return r
}

// evict forgets the one of a few that has not been used for longest. A map is walked in random order.
func (s *estimatorShard) evict(now uint32) {
	const few = 16
	var oldest kindKey
	var age uint32
	seen := 0
	for k, r := range s.m {
		if a := now - r.used.Load(); seen == 0 || a > age {
			oldest, age = k, a
		}
		if seen++; seen == few {
			break
		}
	}
	delete(s.m, oldest)
}

// ratio is a moving average of bytes per token: two sums in which what was seen fades, as two float32 in one word. The
// zero value has seen nothing.
type ratio struct{ sums atomic.Uint64 }

const (
	// fade is how much of the sums stays when something is added: after some 40 requests, a quarter.
	fade = 1 - 1./32
	// mostOfOne bounds the weight of one request, in tokens.
	mostOfOne = 4096
	// priorTokens is the weight of what holds for others.
	priorTokens = 64
)

func (r *ratio) add(bytes, tokens int64, plausible bounds) {
	if bytes <= 0 || tokens <= 0 {
		return
	}
	perToken := plausible.clamp(float64(bytes) / float64(tokens))
	weight := float64(min(tokens, mostOfOne))
	for {
		old := r.sums.Load()
		b, t := unpack(old)
		if r.sums.CompareAndSwap(old, pack(b*fade+perToken*weight, t*fade+weight)) {
			return
		}
	}
}

// of is the average, with what holds otherwise counted in.
func (r *ratio) of(otherwise float64) float64 {
	b, t := unpack(r.sums.Load())
	return (b + otherwise*priorTokens) / (t + priorTokens)
}

func pack(b, t float64) uint64 {
	return uint64(math.Float32bits(float32(b)))<<32 | uint64(math.Float32bits(float32(t)))
}

func unpack(w uint64) (b, t float64) {
	return float64(math.Float32frombits(uint32(w >> 32))), float64(math.Float32frombits(uint32(w)))
}
