package gpu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// TestDriver holds the driver to the pace of the engine, on a clock that only moves when everybody waits.
func TestDriver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ms := time.Millisecond
		p := engine.Profile{Name: "p", Step: 10 * ms, Prefill: ms, Decode: 2 * ms, KVTokens: 64, BlockTokens: 4, MaxSeqs: 4, Budget: 16}
		o, err := Options{Addresses: []string{":0"}, Profile: p, DCGMInterval: 100 * ms}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDriver(p, o, 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go d.run(ctx)
		began := time.Now()
		follow := func(c *call) (out []string) {
			for n := (news{}); !n.ended; {
				if n, err = d.wait(t.Context(), c, n.generated); err != nil {
					t.Error(err)
				}
				out = append(out, fmt.Sprint(time.Since(began), " ", n.generated))
			}
			return out
		}
		expect := func(what string, got []string, want ...string) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}

		time.Sleep(time.Second) // of idleness
		first, err := d.submit(engine.Request{PromptTokens: 5, OutputTokens: 3}, 3, true)
		if err != nil {
			t.Fatal(err)
		}
		expect("alone", follow(first), "1.015s 1", "1.027s 2", "1.039s 3")

		// A stall in the middle of it, and a slower GPU after.
		time.Sleep(time.Second - 39*ms)
		second, err := d.submit(engine.Request{PromptTokens: 5, OutputTokens: 2}, 2, true)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * ms)
		d.do(func(e *engine.Engine) { e.SetFault(engine.Fault{Stalled: true}) })
		go func() {
			time.Sleep(500 * ms)
			d.do(func(e *engine.Engine) { e.SetFault(engine.Fault{Speed: 0.5}) })
		}()
		expect("stalled", follow(second), "2.015s 1", "2.529s 2")

		// Who leaves lets the next one in.
		third, err := d.submit(engine.Request{PromptTokens: 16, OutputTokens: 48}, 48, true)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		fourth, err := d.submit(engine.Request{PromptTokens: 40, OutputTokens: 1}, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(ms)
		d.cancel(third)
		d.cancel(third)
		if n, over := d.look(third); !over || n.end != engine.Canceled || n.generated == 0 {
			t.Errorf("%+v", n)
		}
		if s := d.stats(); s.KVUsed != 0 || s.Waiting != 1 {
			t.Errorf("%+v", s)
		}
		if n, err := d.wait(t.Context(), fourth, 0); err != nil || !n.ended || n.end != engine.Finished {
			t.Errorf("%+v, %v", n, err)
		}
		if len(d.calls) != 0 {
			t.Errorf("%d calls are remembered", len(d.calls))
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		fifth, err := d.submit(engine.Request{PromptTokens: 1, OutputTokens: 1}, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.wait(gone, fifth, 0); err != context.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

// TestNothingGetsLost lets many clients ask while servers fail, stall, die and come back, and counts at the end.
func TestNothingGetsLost(t *testing.T) {
	p := pool(t, 3, func(o *Options) {
		o.Profile.KVTokens, o.Profile.MaxSeqs = 4000, 4 // full and busy
		o.OutputTokens = 20
	})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20}}
	defer client.CloseIdleConnections()
	trouble := func(rnd *rand.Rand) {
		s := p.Servers[rnd.IntN(3)]
		switch rnd.IntN(8) {
		case 0:
			s.Kill()
		case 1, 2, 3:
			if err := s.Revive(); err != nil {
				t.Error(err)
			}
		default:
			if err := s.Set(Fault{Speed: 0.1 + rnd.Float64(), Stall: rnd.IntN(3) == 0, ErrorRate: rnd.Float64() / 3, MetricsOff: rnd.IntN(2) == 0}); err != nil {
				t.Error(err)
			}
		}
		p.states()
	}
	var clients sync.WaitGroup
	var whole, partly [20]int
	for c := range whole {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(c)))
			for i := range 30 {
				if c%4 == 0 { // these clients make trouble, and leave early
					trouble(rnd)
				}
				body := chatBody(fmt.Sprintf(`,"stream":%v,"max_tokens":%d`, i%3 != 0, 1+rnd.IntN(50)), fmt.Sprint(c, i))
				ctx, cancel := context.WithCancel(t.Context())
				if c%4 == 0 {
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(20))*time.Millisecond)
				}
				resp, err := client.Do(request(t, ctx, p.Servers[rnd.IntN(3)], body))
				if err == nil {
					if i%3 == 0 {
						_, err = bufio.NewReader(resp.Body).ReadString('}')
					} else {
						_, err = readStream(resp.Body)
					}
					resp.Body.Close()
				}
				if err == nil {
					whole[c]++
				} else {
					partly[c]++
				}
				cancel()
			}
		})
	}
	// Those who do not leave may wait for a server that is stalled.
	done := make(chan struct{})
	go func() {
		clients.Wait()
		close(done)
	}()
	rnd := rand.New(rand.NewPCG(1, 1))
	until(t, "all clients come to an end", func() bool {
		trouble(rnd)
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	t.Logf("whole answers %v, others %v", whole, partly)
	for _, s := range p.Servers {
		if err := errors.Join(s.Revive(), s.Set(Fault{})); err != nil {
			t.Fatal(err)
		}
		if resp, body := ask(t, s, chatBody("", "Are you well?")); resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
		until(t, "all requests have an end", func() bool {
			st := s.Stats()
			e := st.Engine
			return st.Requests == st.Served+st.Refused+st.Failed+st.Aborted && e.Waiting+e.Running == 0 && e.Submitted == e.Finished+e.Failed+e.Canceled
		})
	}
}
