package relay

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/money"
)

// book is a ledger in memory.
type book struct{ entries []ledger.Entry }

func (*book) Begin(ledger.Intent) bool { return true }

func (b *book) Commit(e ledger.Entry) bool {
	b.entries = append(b.entries, e)
	return true
}

// spent is what limits are told of a request.
type spent struct{ tokens, cost int64 }

func (s *spent) Settle(input, output, cost int64) {
	s.tokens, s.cost = s.tokens+input+output, s.cost+cost
}
func (*spent) Cancel() {}
func (*spent) Void()   {}

// counted is a rig whose requests are entered.
type counted struct {
	*rig
	desk  *usage.Desk
	book  *book
	spent spent
}

func newCounted(t *testing.T, answer http.HandlerFunc) *counted {
	c := &counted{rig: newRig(t, answer), book: &book{}}
	c.desk = usage.NewDesk(usage.DeskOptions{Ledger: c.book, Estimator: usage.NewEstimator(), Registry: prometheus.NewRegistry(), Now: time.Now})
	return c
}

// flight is a request by a rule of these candidates.
func (c *counted) flight(p *cache.Policy, candidates ...*table.Candidate) *Flight {
	return c.rig.flight(p, func(f *Flight) {
		f.Rule = &table.Rule{Name: "default/r", Timeout: time.Minute, Candidates: candidates}
		f.Open = &usage.Open{ID: f.ID, Relayed: true, Time: f.Begun, Model: "m", Tenant: "acme", Currency: "EUR", Grant: &c.spent, Expires: f.Expires}
		c.desk.Begin(f.Open)
		f.Open.Confirm()
	})
}

// over settles a request as Envoy's record does, and gives its entry.
func (c *counted) over(f *Flight) ledger.Entry {
	c.t.Helper()
	n := len(c.book.entries)
	c.desk.Close(&usage.Record{Exchange: f.ID, Start: f.Begun, Status: 200, Details: "via_upstream"})
	if len(c.book.entries) != n+1 {
		c.t.Fatalf("%d entries were made", len(c.book.entries)-n)
	}
	return c.book.entries[n]
}

// at is a candidate that takes so many nano for each token, and ten for the request.
func at(t *testing.T, backend, model string, perToken money.Nano) *table.Candidate {
	t.Helper()
	b := &table.Backend{ID: backend}
	if perToken > 0 {
		each := perToken * 1_000_000
		prices, err := money.NewTable(money.Price{Version: perToken.String(), Input: each, Output: each, Reasoning: each, Request: 10})
		if err != nil {
			t.Fatal(err)
		}
		b.DefaultPrice = prices
	}
	return &table.Candidate{Backend: b, Model: model}
}

// A hit has saved what the backend that gave the answer would take for it now. Nobody has spent that.
func TestHitsSave(t *testing.T) {
	r := newCounted(t, plainly)
	r.candidates = []usage.Candidate{{Backend: "default/b", UpstreamModel: "large"}}
	p := policyOf()
	// The answer is large's of b: which models there are is part of what answers are kept by, who has them is not.
	r.ask(r.flight(p, at(t, "default/b", "large", 3), at(t, "default/b", "small", 1)))
	for name, c := range map[string]struct {
		rule []*table.Candidate
		cost int64
	}{
		"as it was bought":           {[]*table.Candidate{at(t, "default/b", "large", 3), at(t, "default/b", "small", 1)}, 2*3 + 10},
		"the price has changed":      {[]*table.Candidate{at(t, "default/b", "large", 9), at(t, "default/b", "small", 1)}, 2*9 + 10},
		"others are cheaper":         {[]*table.Candidate{at(t, "default/a", "large", 1), at(t, "default/b", "small", 2), at(t, "default/b", "large", 5)}, 2*5 + 10},
		"it has no price":            {[]*table.Candidate{at(t, "default/b", "large", 0), at(t, "default/b", "small", 1)}, 0},
		"it has the other model now": {[]*table.Candidate{at(t, "default/b", "small", 1), at(t, "default/a", "large", 1)}, 0},
		"it is not asked any more":   {[]*table.Candidate{at(t, "default/a", "large", 1), at(t, "default/a", "small", 1)}, 0},
	} {
		f := r.flight(p, c.rule...)
		if _, h, _ := r.ask(f); h.Get(wire.CacheHeader) != "hit" {
			t.Fatalf("%s: %v", name, h)
		}
		e := r.over(f)
		if e.SavedCost != c.cost || e.SavedTokens != (ledger.Tokens{Input: 1, Output: 1}) || (e.PriceVersion != "") != (c.cost > 0) || e.Currency != "EUR" {
			t.Errorf("%s: saved %d %+v by %q, want %d", name, e.SavedCost, e.SavedTokens, e.PriceVersion, c.cost)
		}
		if e.Cost != 0 || e.Tokens != (ledger.Tokens{}) || r.spent != (spent{}) || e.Unpriced {
			t.Errorf("%s: what was saved counts as spent: %+v, %+v", name, e, r.spent)
		}
	}
}

// Who shares what another buys has saved it, too, a stream as well; who buys has not.
func TestFollowersSave(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	const text = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}

data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":100,"prompt_tokens_details":{"cached_tokens":90},"completion_tokens":20,"completion_tokens_details":{"reasoning_tokens":5},"total_tokens":120}}

data: [DONE]

`
	r := newCounted(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "text/event-stream")
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-goOn
		_, _ = io.WriteString(w, text)
	})
	p := policyOf()
	rule := at(t, "default/b", "", 1000)
	stream := strings.Replace(plainAsk, `"temperature":0`, `"temperature":0,"stream":true`, 1)
	flights := []*Flight{r.flight(p, rule), r.flight(p, rule), r.flight(p, rule)}
	done := make(chan error, len(flights))
	ask := func(f *Flight) {
		resp, err := r.send(t.Context(), f, stream)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		done <- err
	}
	go ask(flights[0])
	<-begun
	go ask(flights[1])
	go ask(flights[2])
	waitFor(t, "all are there", func() bool { return testutil.ToFloat64(r.server.metrics.running) == 3 })
	close(goOn)
	for range flights {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range flights[1:] {
		if e := r.over(f); !e.Cached || e.SavedTokens != (ledger.Tokens{Input: 100, Output: 15, Reasoning: 5}) || e.SavedCost != 120_010 || e.Cost != 0 {
			t.Errorf("a follower: %+v", e)
		}
	}
	r.server.opts.Cache.Use([]*cache.Policy{p})
	if s := r.server.opts.Cache.Stats().Policies[0]; s.SavedInput != 200 || s.SavedOutput != 40 || s.SavedCost["EUR"] != 240_020 || len(s.SavedCost) != 1 {
		t.Errorf("the policy's: %+v", s)
	}
}

// A refusal that is kept was free when it came.
func TestRefusalsSaveNothing(t *testing.T) {
	r := newCounted(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"error":{"message":"no"}}`, http.StatusBadRequest)
	})
	p := policyOf()
	p.Negative, p.NegativeTTL = []int{http.StatusBadRequest}, time.Minute
	rule := at(t, "default/b", "", 7)
	r.ask(r.flight(p, rule))
	f := r.flight(p, rule)
	if status, h, _ := r.ask(f); status != 400 || h.Get(wire.CacheHeader) != "negative" {
		t.Fatal(status, h)
	}
	if e := r.over(f); !e.Cached || e.SavedCost != 0 || e.SavedTokens != (ledger.Tokens{}) {
		t.Errorf("%+v", e)
	}
}
