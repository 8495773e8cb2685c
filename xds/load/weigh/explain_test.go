package weigh_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/xds/load/signal"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestExplain is a day of a pool, second by second, in the words of its results.
func TestExplain(t *testing.T) {
	p := newPool(t, 4, nil)
	p.in[3].Base = 2
	level := make([]signal.Sample, 4)
	ttft := make([]time.Duration, 4)
	for i := range ttft {
		ttft[i] = 200 * time.Millisecond
		level[i] = signal.Sample{Has: signal.Set(0).With(signal.GPUUtilization).With(signal.QueueDelay).With(signal.KVCache), GPUUtilization: 0.6, KVCache: 0.5}
	}
	telling := 4 // endpoints of which metrics are read
	events := []struct {
		at   int // seconds
		what string
		do   func()
	}{
		{2, "the GPU of the second goes to 91 %", func() { level[1].GPUUtilization = 0.91 }},
		{4, "and its queue to 620 ms, and its answers become slow", func() {
			level[1].QueueDelay, ttft[1] = 620*time.Millisecond, 244*time.Millisecond
		}},
		{8, "it recovers, but for its GPU, which is at 80 %", func() {
			level[1].QueueDelay, level[1].GPUUtilization, ttft[1] = 100*time.Millisecond, 0.80, 200*time.Millisecond
		}},
		{11, "which goes to 70 %", func() { level[1].GPUUtilization = 0.7 }},
		{13, "the third fails its health checks", func() { p.in[2].Checked, p.in[2].Failed = true, 2 }},
		{15, "and passes one", func() { p.in[2].Failed, p.in[2].Passed = 0, 1 }},
		{16, "and another", func() { p.in[2].Passed = 2 }},
		{20, "half of the requests to the fourth fail", func() { p.in[3].ErrorRate = 0.5 }},
		{21, "its breaker opens", func() { p.in[3].Breaker = breaker.Open }},
		{26, "is half open", func() { p.in[3].Breaker = breaker.HalfOpen }},
		{27, "and closes", func() { p.in[3].Breaker, p.in[3].ErrorRate = breaker.Closed, -1 }},
		{37, "the cache of the first is full", func() { level[0].KVCache = 0.98 }},
		{39, "metrics of the first can no longer be read", func() { telling = 3 }},
		{55, "health checks fail everywhere, and the policy panics below a half", func() {
			p.policy.Panic = 0.5
			for i := range 3 {
				p.in[i].Checked, p.in[i].Failed, p.in[i].Passed = true, 2, 0
			}
		}},
		{57, "that was the network; a public API joins, says that little is left, and costs twice as much", func() {
			for i := range 3 {
				p.in[i].Failed, p.in[i].Passed = 0, 5
			}
			p.policy.PreferCheap, p.policy.WarmUp = 1, 0
			p.in = append(p.in, silent(4))
			p.in[4].PriceRatio = 0.5
			s := headroom(8)
			s[0].At = p.now
			p.in[4].Samples = s
		}},
		{59, "and answers 429", func() { p.in[4].BlockedUntil = p.now.Add(90 * time.Second) }},
	}
	var b strings.Builder
	shown := map[string]string{}
	for s := range 61 {
		for len(events) > 0 && events[0].at == s {
			fmt.Fprintf(&b, "%d s: %s\n", s, events[0].what)
			events[0].do()
			events = events[1:]
		}
		for range 4 {
			p.now = p.now.Add(250 * time.Millisecond)
			for i := range level {
				p.ttft(i, ttft[i])
				if i >= 4-telling {
					level[i].At = p.now
					p.in[i].Samples = []signal.Sample{level[i]}
				}
			}
			p.compute()
		}
		for i := range p.out {
			if text := p.out[i].Explain(); shown[p.out[i].Key] != text {
				shown[p.out[i].Key] = text
				fmt.Fprintf(&b, "  %d s  %s  %-9v  %s\n", s+1, p.out[i].Key, p.out[i].Status, text)
			}
		}
	}
	const golden = "testdata/explain.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("what is explained is not what %s has; -update rewrites it:\n%s", golden, b.String())
	}
}
