package usage

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// family keeps what is counted under the same labels together: who looks for it by its labels once needs not look for each series, which
// costs several times what counting does. There are as many keys as there are combinations of labels, which are bounded.
type family[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]*V
}

// of finds what is counted under a key, or makes an empty one.
func (f *family[K, V]) of(key K) *V {
	f.mu.RLock()
	v := f.m[key]
	f.mu.RUnlock()
	if v != nil {
		return v
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v = f.m[key]; v == nil {
		if f.m == nil {
			f.m = map[K]*V{}
		}
		v = new(V)
		f.m[key] = v
	}
	return v
}

// forget forgets everything. It comes after series were deleted: they would be counted on where nobody sees them.
func (f *family[K, V]) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.m)
}

// series is one that exists from when it is first needed: one of zero would be exported.
type series[T any] struct{ p atomic.Pointer[T] }

// get finds it the first time.
func (s *series[T]) get(find func() T) T {
	if p := s.p.Load(); p != nil {
		return *p
	}
	v := find()
	s.p.Store(&v)
	return v
}

type (
	counter  = series[prometheus.Counter]
	observer = series[prometheus.Observer]
)
