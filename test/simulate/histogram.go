package simulate

import (
	"math"
	"slices"
	"time"
)

// histogram counts durations in buckets that are 1 % wide, so that millions cost little. Below a microsecond they count as one.
type histogram struct {
	counts []uint64
	total  uint64
	sum    float64 // seconds
}

var bucketWidth = math.Log(1.01)

func (h *histogram) add(d time.Duration) {
	i := 0
	if us := float64(d) / float64(time.Microsecond); us > 1 {
		i = int(math.Log(us) / bucketWidth)
	}
	if i >= len(h.counts) {
		h.counts = append(h.counts, make([]uint64, i+1-len(h.counts))...)
	}
	h.counts[i]++
	h.total++
	h.sum += d.Seconds()
}

// quantile is the middle of the bucket that the q-th of the durations is in, in seconds; 0 if there are none.
func (h *histogram) quantile(q float64) float64 {
	if h.total == 0 {
		return 0
	}
	rank := uint64(rankOf(q, int(h.total)))
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += n; seen > rank {
			return math.Exp((float64(i)+0.5)*bucketWidth) / 1e6
		}
	}
	return 0
}

// quantile is the value below or at which a part q of the sorted values are; 0 if there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[rankOf(q, len(sorted))]
}

// rankOf is the nearest rank, from 0 on.
func rankOf(q float64, n int) int {
	return min(max(int(math.Ceil(q*float64(n)))-1, 0), n-1)
}

func mean(values []time.Duration) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += float64(v)
	}
	return time.Duration(sum / float64(len(values)))
}

func sortedCopy(values []time.Duration) []time.Duration {
	out := slices.Clone(values)
	slices.Sort(out)
	return out
}
