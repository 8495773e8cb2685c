package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// answer is what came of one request.
type answer struct {
	cache string // x-weir-cache; "" without a cache
	took  time.Duration
	body  []byte
}

// callers send requests, each by a connection of its own.
func (s *stack) client(connections int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxIdleConns: connections}}
}

// body is a deterministic request.
func body(model, prompt string, stream bool) []byte {
	text, err := json.Marshal(map[string]any{
		"model": model, "temperature": 0, "stream": stream,
		"messages": []map[string]string{{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": prompt}},
	})
	if err != nil {
		panic("remember: " + err.Error()) // strings and numbers
	}
	return text
}

// ask sends a request and reads the whole answer, whose status must be want.
func (s *stack) ask(ctx context.Context, c *http.Client, request []byte, want int) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.address+"/v1/chat/completions", bytes.NewReader(request))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+callerKey)
	began := time.Now()
	resp, err := c.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if resp.StatusCode != want {
		return answer{}, fmt.Errorf("the gateway answered %d, and not %d: %.300s", resp.StatusCode, want, b)
	}
	return answer{cache: resp.Header.Get("x-weir-cache"), took: time.Since(began), body: b}, nil
}

// all sends n requests from several callers in turn; the i-th is made by of(i). Answers stand in the order of the requests.
func (s *stack) all(ctx context.Context, callers, n, want int, of func(i int) []byte) ([]answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := s.client(callers)
	defer c.CloseIdleConnections()
	out := make([]answer, n)
	var next atomic.Int64
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				a, err := s.ask(ctx, c, of(i), want)
				if err != nil {
					cancel(err)
					return
				}
				a.body = nil
				out[i] = a
			}
		})
	}
	group.Wait()
	return out, context.Cause(ctx)
}

// zipf draws n numbers below the number of prompts, with a fixed seed: every way gets the same ones.
func zipf(n, prompts int, exponent float64) []int {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), exponent, 1, uint64(prompts-1))
	out := make([]int, n)
	for i := range out {
		out[i] = int(z.Uint64())
	}
	return out
}

// distinct is how many different numbers there are.
func distinct(list []int) int {
	seen := map[int]bool{}
	for _, x := range list {
		seen[x] = true
	}
	return len(seen)
}

// latency in milliseconds.
type latency struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// latencyOf the answers that are chosen.
func latencyOf(list []answer, chosen func(answer) bool) latency {
	var took []time.Duration
	for _, a := range list {
		if chosen(a) {
			took = append(took, a.took)
		}
	}
	if len(took) == 0 {
		return latency{}
	}
	slices.Sort(took)
	at := func(q float64) float64 {
		d := took[max(int(math.Ceil(q*float64(len(took)))), 1)-1]
		return float64(d.Microseconds()) / 1000
	}
	return latency{N: len(took), P50: at(0.5), P99: at(0.99), Max: at(1)}
}
