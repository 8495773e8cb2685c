package cache

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/test/redistest"
)

const answerText = "an answer of a model, with some words in it that are not all the same; "

func BenchmarkHitInMemory(b *testing.B) {
	c := newCache(b, Options{})
	a := ask(policy(nil), "q")
	buy(b, c, a, strings.Repeat(answerText, 30))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if c.Get(context.Background(), a).Outcome != Hit {
				b.Fatal("no hit")
			}
		}
	})
}

func BenchmarkHitInRedis(b *testing.B) {
	s := redistest.Start(b)
	c := replica(b, s, "1", nil)
	a := ask(shared(func(p *Policy) { p.MemoryBytes = 0 }), "q")
	buy(b, c, a, strings.Repeat(answerText, 30))
	b.ReportAllocs()
	for b.Loop() {
		if c.Get(context.Background(), a).Outcome != Hit {
			b.Fatal("no hit")
		}
	}
}

// BenchmarkMissByFilter is what a question after what Redis has not costs with a filter.
func BenchmarkMissByFilter(b *testing.B) {
	s := redistest.Start(b)
	c := replica(b, s, "1", nil)
	p := filtered(1_000_000, 0.01)
	settled(b, c, p)
	a := ask(p, "q")
	b.ReportAllocs()
	for b.Loop() {
		c.Get(context.Background(), a)
	}
}

// BenchmarkFollowers is one answer of 100 pieces for 1,000 callers.
func BenchmarkFollowers(b *testing.B) {
	c := newCache(b, Options{})
	p := policy(nil)
	event := []byte(stream(0) + strings.Repeat("x", 150))
	n := 0
	for b.Loop() {
		n++
		goOn := make(chan struct{})
		fill := func(_ context.Context, w *Writer) error {
			if err := w.Begin(okHead); err != nil {
				return err
			}
			<-goOn
			for range 100 {
				if _, err := w.Write(event); err != nil {
					return err
				}
			}
			return nil
		}
		var wg sync.WaitGroup
		for range 1000 {
			r := c.Do(context.Background(), ask(p, "f", n), fill)
			wg.Go(func() {
				defer r.Close()
				if got, err := readAll(r); len(got) != 100*len(event) || err != nil {
					b.Error(len(got), err)
				}
			})
		}
		close(goOn)
		wg.Wait()
	}
}

// BenchmarkWrite compares the ways to write, by what a miss takes when buying takes no time, and by what Redis is asked to keep: 20,000
// requests over 5,000 prompts, by Zipf's law.
func BenchmarkWrite(b *testing.B) {
	for _, w := range []Write{WriteThrough, WriteBehind, WriteAside} {
		b.Run(w.String(), func(b *testing.B) {
			s := redistest.Start(b)
			c := replica(b, s, "1", nil)
			text := stream(50)
			fills, took, rounds := 0, time.Duration(0), 0
			for b.Loop() {
				rounds++
				p := shared(func(p *Policy) { p.ID, p.Write, p.MaxWait, p.MemoryBytes = "ns/p", w, 0, 256<<20 })
				zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, 5000)
				for range 20_000 {
					a := ask(p, rounds, zipf.Uint64())
					if c.Get(context.Background(), a).Outcome == Miss {
						began := time.Now()
						buy(b, c, a, text)
						took += time.Since(began)
						fills++
					}
				}
			}
			b.StopTimer()
			until(b, "the queue is empty", func() bool { return c.queue.depth() == 0 })
			b.ReportMetric(float64(took.Microseconds())/float64(fills), "µs/miss")
			b.ReportMetric(float64(fills)/float64(rounds), "misses")
			b.ReportMetric(testutil.ToFloat64(c.metrics.written.WithLabelValues("ns/p"))/float64(rounds), "writes")
		})
	}
}
