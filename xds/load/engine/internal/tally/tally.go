// Package tally gathers the values of one metric over the lines of a page: an engine tells one line for each model, rank or GPU.
package tally

import "math"

// Sum adds values up.
type Sum struct {
	Value float64
	Known bool // some line had a value
}

// Add adds what promtext.Scanner.Value gave. Counts are not negative: what is, or is not finite, is left out.
func (s *Sum) Add(v float64, ok bool) {
	if ok && usable(v) {
		s.Value, s.Known = s.Value+v, true
	}
}

// Max keeps the largest value.
type Max struct {
	Value float64
	Known bool // some line had a value
}

// Add takes what promtext.Scanner.Value gave, like Sum's.
func (m *Max) Add(v float64, ok bool) {
	if ok && usable(v) && (!m.Known || v > m.Value) {
		m.Value, m.Known = v, true
	}
}

// Part is the value as a part of the whole, 0..1.
func (m *Max) Part() float64 { return min(m.Value, 1) }

func usable(v float64) bool { return v >= 0 && !math.IsInf(v, 1) }

// Own says whether the metric's name begins with the engine's prefix and one of the separators in use, and what follows: exporters
// write "vllm:name", what passed an OpenTelemetry collector "vllm_name".
func Own(name []byte, prefix string) (rest []byte, ok bool) {
	n := len(prefix)
	if len(name) <= n || name[n] != ':' && name[n] != '_' || string(name[:n]) != prefix {
		return nil, false
	}
	return name[n+1:], true
}

// Key is a name for what a label tells apart: its FNV-1a hash.
func Key(label []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range label {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// maxParts bounds how many GPUs or ranks one page may tell apart: no server has a tenth of them.
const maxParts = 1024

// Parts keeps two values, told on different lines, for each of several GPUs or ranks. Its memory is used again after Reset.
type Parts struct {
	list []part
}

type part struct {
	key  uint64
	a, b Max
}

// Reset forgets all values.
func (p *Parts) Reset() { p.list = p.list[:0] }

// First takes the first value of the part; of several the largest.
func (p *Parts) First(key uint64, v float64, ok bool) {
	if at := p.at(key); at != nil {
		at.a.Add(v, ok)
	}
}

// Second takes the second value of the part; of several the largest.
func (p *Parts) Second(key uint64, v float64, ok bool) {
	if at := p.at(key); at != nil {
		at.b.Add(v, ok)
	}
}

func (p *Parts) at(key uint64) *part {
	for i := range p.list {
		if p.list[i].key == key {
			return &p.list[i]
		}
	}
	if len(p.list) == maxParts {
		return nil
	}
	p.list = append(p.list, part{key: key})
	return &p.list[len(p.list)-1]
}

// Total is the sum of the first values.
func (p *Parts) Total() (s Sum) {
	for i := range p.list {
		s.Add(p.list[i].a.Value, p.list[i].a.Known)
	}
	return s
}

// Fullest is the largest ratio that ratio gives for the parts of which both values are known and not both 0.
func (p *Parts) Fullest(ratio func(first, second float64) float64) (m Max) {
	for i := range p.list {
		if l := &p.list[i]; l.a.Known && l.b.Known && l.a.Value+l.b.Value > 0 {
			r := ratio(l.a.Value, l.b.Value)
			m.Add(r, !math.IsNaN(r))
		}
	}
	return m
}
