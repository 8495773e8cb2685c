package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/redistest"
)

// TestCrowdLeaves: a thousand read one stream, and those who leave in the middle, who bought it among them, take nothing from the others.
func TestCrowdLeaves(t *testing.T) {
	s := redistest.Start(t)
	c := startCrowded(t, newStage(t), harness.Options{
		Listener:  redisAt(s, redisTimeout),
		Documents: []string{crowdPolicy("memory", ""), crowdPolicy("redis", "memory: \"0\"\nredis: {}")},
	})
	for _, model := range []string{"memory", "redis"} {
		t.Run(model, func(t *testing.T) { testCrowdLeaves(t, c, model) })
	}
}

// hearer is one who reads a stream.
type hearer struct {
	body  *bufio.Reader
	leave func()
	text  strings.Builder
}

// listen begins to read a stream and reads the words before its first gate.
func (c *crowded) listen(t *testing.T, consumer, model string) (*hearer, *http.Response, error) {
	ctx, leave := context.WithCancel(t.Context())
	t.Cleanup(leave)
	body := strings.TrimSuffix(chatBody(model, "What everybody wants to know.", true), "}") + `,"temperature":0}`
	resp, err := c.client.Do(request(t, c.Gateway, "POST", "/v1/chat/completions", "openai", body, "authorization", "Bearer "+crowdKey(consumer)).WithContext(ctx))
	if err != nil {
		return nil, nil, err
	}
	l := &hearer{body: bufio.NewReader(resp.Body), leave: func() { leave(); resp.Body.Close() }}
	return l, resp, l.until(storyParts)
}

// until reads until there are so many words; -1 is to the end.
func (l *hearer) until(words int) error {
	for {
		if text, ended, err := streamText(l.text.String()); err != nil || ended || words >= 0 && len(strings.Fields(text)) >= words {
			return err
		}
		for range 2 { // an event and the line behind it
			line, err := l.body.ReadString('\n')
			if err != nil {
				return fmt.Errorf("after %q: %w", l.text.String(), err)
			}
			l.text.WriteString(line)
		}
	}
}

func testCrowdLeaves(t *testing.T, c *crowded, model string) {
	const many, leaving, gates = 1000, 300, 2
	open := c.stage.will(t, model, 0, gates)
	leader, resp, err := c.listen(t, "rich", model)
	if err != nil || resp.Header.Get("x-weir-cache") != "miss" {
		t.Fatalf("the first: %v", err)
	}
	everybody := make([]*hearer, many-1)
	each := func(what string, list []*hearer, do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		for i := range list {
			wg.Go(func() {
				if err := do(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			t.Fatalf("%s: %v", what, *err)
		}
	}
	running := func(n float64) func() bool {
		return func() bool { return c.Metric("weir_relay_requests_running") == n }
	}
	each("coming", everybody, func(i int) error {
		l, resp, err := c.listen(t, "rich", model)
		if err != nil {
			return err
		}
		if got := resp.Header.Get("x-weir-cache"); got != "shared" {
			return fmt.Errorf("x-weir-cache is %q", got)
		}
		everybody[i] = l
		return nil
	})
	// The one who buys leaves.
	leader.leave()
	c.WaitFor("the first to be gone", running(many-1))
	open[0]()
	each("in the middle", everybody, func(i int) error { return everybody[i].until(2 * storyParts) })
	// Then many of the others, and whoever came after the first among them.
	for _, l := range everybody[:leaving] {
		l.leave()
	}
	c.WaitFor("many to be gone", running(many-1-leaving))
	open[1]()
	stay, want := everybody[leaving:], storyText(model, gates)
	each("to the end", stay, func(i int) error {
		if err := stay[i].until(-1); err != nil {
			return err
		}
		if text, ended, err := streamText(stay[i].text.String()); text != want || !ended || err != nil {
			return fmt.Errorf("ended %v, %w, %q", ended, err, text)
		}
		stay[i].leave()
		return nil
	})
	for i := range 4 {
		m := askerOf(i, "poor", model)
		if a := c.must(t, m); a.status != http.StatusOK || a.header.Get("x-weir-cache") != "hit" || m.said(t, a) != want {
			t.Errorf("%+v later: %d %q %s", m, a.status, a.header.Get("x-weir-cache"), a.body)
		}
	}
	if n := c.stage.asked(model); n != 1 {
		t.Errorf("the provider had %d requests, want 1", n)
	}
	c.WaitFor("the entries", func() bool {
		paid, entries := 0, 0
		for _, e := range c.Ledger() {
			if e.Model != model {
				continue
			}
			entries++
			switch {
			case e.Cost == 0:
			case e.Cache != "miss" || e.Cost != (gates+1)*storyParts*tokenCost || e.Aborted:
				t.Fatalf("the entry is %+v", e)
			default:
				paid++
			}
		}
		return paid == 1 && entries == many+4
	})
}
