package accesslog_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/accesslog"
)

// patience is for what must come. Only a failing test waits that long.
const patience = 20 * time.Second

// pipe is an output that the test reads lines of.
type pipe struct {
	mu   sync.Mutex
	b    bytes.Buffer
	gate chan struct{} // Write waits until it is closed; nil for not at all
	took chan struct{} // is sent to when Write waits
	fail error
	half bool // what fails takes half
}

func (p *pipe) Write(b []byte) (int, error) {
	if p.gate != nil {
		select {
		case p.took <- struct{}{}:
		default:
		}
		<-p.gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		n := 0
		if p.half {
			n = len(b) / 2
			p.b.Write(b[:n])
		}
		return n, p.fail
	}
	return p.b.Write(b)
}

func (p *pipe) set(fail error) {
	p.mu.Lock()
	p.fail = fail
	p.mu.Unlock()
}

func (p *pipe) lines() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Count(p.b.Bytes(), []byte("\n"))
}

func metric(t *testing.T, reg *prometheus.Registry, name, reason string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (reason == "" || m.GetLabel()[0].GetValue() == reason) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func start(t *testing.T, out io.Writer) (*accesslog.Log, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	l := accesslog.New(accesslog.Options{Out: out, Registry: reg})
	t.Cleanup(func() { l.Close(t.Context()) })
	return l, reg
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	end := time.After(patience)
	for !cond() {
		select {
		case <-end:
			t.Fatalf("waited %s in vain: %s", patience, what)
		case <-time.After(time.Millisecond):
		}
	}
}

func one() *usage.Finished {
	return &usage.Finished{Record: &usage.Record{RequestID: "r", Status: 200, Path: "/v1/messages"}}
}

// TestLinesComeAtOnce: nothing waits for a buffer to fill.
func TestLinesComeAtOnce(t *testing.T) {
	out := &pipe{}
	l, reg := start(t, out)
	for n := 1; n <= 3; n++ {
		l.Finished(one())
		eventually(t, "a line", func() bool { return out.lines() == n })
	}
	eventually(t, "the count", func() bool { return metric(t, reg, "weir_access_log_lines_total", "") == 3 })
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

// TestNobodyWaits: who ends a request goes on while the output takes nothing, and what does not fit is counted.
func TestNobodyWaits(t *testing.T) {
	out := &pipe{gate: make(chan struct{}), took: make(chan struct{}, 1)}
	l, reg := start(t, out)
	l.Finished(one())
	<-out.took // the writer is stuck
	const more = 3 * 4096
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range more / 3 {
				l.Finished(one())
			}
		})
	}
	all.Wait()
	dropped := metric(t, reg, "weir_access_log_dropped_total", "full")
	if dropped != more-4096 {
		t.Errorf("%v lines were dropped, want %d", dropped, more-4096)
	}
	close(out.gate)
	l.Close(t.Context())
	if got, want := out.lines(), more+1-int(dropped); got != want {
		t.Errorf("%d lines were written, want %d", got, want)
	}
}

// TestCloseIsBounded where the output never takes anything again.
func TestCloseIsBounded(t *testing.T) {
	out := &pipe{gate: make(chan struct{}), took: make(chan struct{}, 1)}
	l, _ := start(t, out)
	l.Finished(one())
	<-out.took
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Close(ctx) // must return
	l.Finished(one())
	close(out.gate)
}

// TestCloseWritesEverything that was told of before.
func TestCloseWritesEverything(t *testing.T) {
	out := &pipe{}
	l, _ := start(t, out)
	for range 1000 {
		l.Finished(one())
	}
	l.Close(t.Context())
	if n := out.lines(); n != 1000 {
		t.Errorf("%d lines, want 1000", n)
	}
	l.Finished(one())
	l.Close(t.Context())
	if n := out.lines(); n != 1000 {
		t.Errorf("%d lines after the end", n)
	}
}

// TestFailingOutput: lines are lost and counted, those after them are whole.
func TestFailingOutput(t *testing.T) {
	out := &pipe{fail: errors.New("disk full"), half: true}
	l, reg := start(t, out)
	l.Finished(one())
	eventually(t, "a dropped line", func() bool { return metric(t, reg, "weir_access_log_dropped_total", "write") == 1 })
	out.set(nil)
	l.Finished(one())
	l.Close(t.Context())
	lines := strings.Split(strings.TrimSuffix(out.b.String(), "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], `{"time"`) || !strings.HasSuffix(lines[1], "}") {
		t.Errorf("got %q", lines)
	}
}

func TestSetEnabled(t *testing.T) {
	out := &pipe{}
	l, _ := start(t, out)
	l.SetEnabled(false)
	l.Finished(one())
	l.SetEnabled(true)
	l.Finished(one())
	l.Close(t.Context())
	if n := out.lines(); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func BenchmarkFinished(b *testing.B) {
	for _, name := range []string{"whole", "refused"} {
		b.Run(name, func(b *testing.B) {
			l := accesslog.New(accesslog.Options{Out: io.Discard, Registry: prometheus.NewRegistry()})
			f := samples()[name]
			b.ReportAllocs()
			for b.Loop() {
				l.Finished(f)
			}
			l.Close(context.Background())
		})
	}
}
