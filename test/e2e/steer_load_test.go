package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
)

// contender is a way to balance a pool, under a load of streamed chats that is the same for all of them.
type contender struct {
	name, url, key, model string
	pool                  *gpu.Pool

	phase atomic.Int32
	sent  atomic.Int64
	open  sync.WaitGroup
	mu    sync.Mutex
	chats []oneChat
	marks [][]int // chats that each server has received, at the begin of each phase

	foreign map[int]int // chats that a server received from others
}

// oneChat is how one chat went.
type oneChat struct {
	phase int32 // in which it began
	began time.Time
	ttft  time.Duration // 0: there was no token
	err   error
}

// arrivals are the times between chats, as of callers who do not know of each other, and their sizes. Those of one seed are the same.
type arrivals struct {
	rnd    *rand.Rand
	rate   float64 // chats a second
	filler string
	n      int
}

func newArrivals(seed uint64, rate float64) *arrivals {
	return &arrivals{rnd: rand.New(rand.NewPCG(seed, 1)), rate: rate, filler: strings.Repeat(" and so on", 1200)} // 3000 tokens
}

// next is how long the next chat is to wait for, and its prompt: of 1000 to 3000 tokens, and with a beginning of its own.
func (a *arrivals) next() (pause time.Duration, prompt string) {
	a.n++
	pause = time.Duration(a.rnd.ExpFloat64() / a.rate * float64(time.Second))
	return pause, fmt.Sprintf("%08d%s", a.n, a.filler[:4000+a.rnd.IntN(8000)])
}

// run sends chats until ctx ends, and waits until all have ended.
func (c *contender) run(ctx context.Context, a *arrivals) {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	at := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		pause, prompt := a.next()
		at = at.Add(pause)
		timer.Reset(time.Until(at))
		select {
		case <-ctx.Done():
			c.open.Wait()
			return
		case <-timer.C:
		}
		phase := c.phase.Load()
		c.sent.Add(1)
		c.open.Go(func() {
			s := oneChat{phase: phase, began: time.Now()}
			s.ttft, s.err = c.chat(client, prompt)
			c.mu.Lock()
			c.chats = append(c.chats, s)
			c.mu.Unlock()
		})
	}
}

// chat streams one chat to its end.
func (c *contender) chat(client *http.Client, prompt string) (ttft time.Duration, err error) {
	req, err := http.NewRequest(http.MethodPost, c.url+"/v1/chat/completions", strings.NewReader(question(c.model, prompt, 8, true)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("content-type", "application/json")
	req.Header.Set("authorization", "Bearer "+c.key)
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "data: [DONE]":
			return ttft, nil
		case ttft == 0 && strings.HasPrefix(line, "data: "):
			ttft = time.Since(began)
		}
	}
	if lines.Err() != nil {
		return ttft, lines.Err()
	}
	return ttft, errors.New("the stream ended without [DONE]")
}

// enter begins a phase.
func (c *contender) enter(phase int) {
	c.marks = append(c.marks, c.received())
	c.phase.Store(int32(phase))
}

// received is how many chats each server has received so far.
func (c *contender) received() (out []int) {
	for i, s := range c.pool.Servers {
		out = append(out, int(s.Stats().Requests)-c.foreign[i])
	}
	return out
}

// crowd gives a server more to do than it can by itself.
func (c *contender) crowd(t *testing.T, server, chats int) (stop func()) {
	t.Helper()
	stop = crowdOut(t, c.pool.Servers[server], chats)
	c.foreign = map[int]int{server: chats}
	return stop
}

// shares are the parts that each server received of the chats from one phase to the end of another.
func (c *contender) shares(from, to int) []float64 {
	out := make([]float64, len(c.pool.Servers))
	sum := 0.0
	for i := range out {
		out[i] = float64(c.marks[to+1][i] - c.marks[from][i])
		sum += out[i]
	}
	for i := range out {
		out[i] /= max(1, sum)
	}
	return out
}

// outcome is how the chats went that began between the begin of one phase and the end of another.
func (c *contender) outcome(from, to int) (n, failed int, p50, p99 time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var times []time.Duration
	for _, s := range c.chats {
		if int(s.phase) < from || int(s.phase) > to {
			continue
		}
		if n++; s.err != nil {
			failed++
		}
		if s.ttft > 0 {
			times = append(times, s.ttft)
		}
	}
	slices.Sort(times)
	rank := func(p float64) time.Duration {
		if len(times) == 0 {
			return 0
		}
		return times[int(math.Ceil(p*float64(len(times))))-1]
	}
	return n, failed, rank(0.5), rank(0.99)
}

// comparison shows how each contender did in each phase.
func comparison(phases []string, contenders []*contender) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "phase\tpolicy\tchats\tfailed\tTTFT p50\tp99\t")
	for i := range contenders[0].pool.Servers {
		fmt.Fprintf(w, "gpu%d\t", i)
	}
	fmt.Fprintln(w)
	for p, name := range phases {
		for _, c := range contenders {
			n, failed, p50, p99 := c.outcome(p, p)
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d ms\t%d ms\t", name, c.name, n, failed, p50.Milliseconds(), p99.Milliseconds())
			for _, s := range c.shares(p, p) {
				fmt.Fprintf(w, "%.0f %%\t", 100*s)
			}
			fmt.Fprintln(w)
		}
	}
	w.Flush()
	return b.String()
}

// crowdOut gives a server more to do than it can by itself, until stop is called. All of it has arrived when crowdOut returns.
func crowdOut(t *testing.T, s *gpu.Server, chats int) (stop func()) {
	t.Helper()
	before := s.Stats().Engine.Submitted
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	filler := strings.Repeat(" and so on", 1200)
	for i := range chats {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/v1/chat/completions",
			strings.NewReader(question("crowd", fmt.Sprintf("%08d of a crowd%s", i, filler), 1, false)))
		must(t, err)
		wg.Go(func() {
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	harness.WaitFor(t, "the crowd is there", func() bool { return s.Stats().Engine.Submitted >= before+uint64(chats) })
	return func() { cancel(); wg.Wait() }
}
