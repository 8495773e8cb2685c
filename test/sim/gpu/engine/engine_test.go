package engine

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// small is a profile whose numbers can be added up in the head: a step takes 10 ms, 1 ms a prompt token, 2 ms a sequence.
var small = Profile{Name: "small", Model: "m", Step: 10 * time.Millisecond, Prefill: time.Millisecond, Decode: 2 * time.Millisecond,
	KVTokens: 64, BlockTokens: 4, MaxSeqs: 4, Budget: 16}

// run is an engine and what it told.
type run struct {
	*Engine
	t      *testing.T
	events []Event
}

func start(t *testing.T, p Profile, seed uint64) *run {
	t.Helper()
	r := &run{t: t}
	var err error
	if r.Engine, err = New(p, Options{Seed: seed, Emit: func(e Event) { r.events = append(r.events, e) }}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *run) submit(q Request) {
	r.t.Helper()
	if err := r.Submit(q); err != nil {
		r.t.Fatal(err)
	}
}

// finish advances until nothing is left to do.
func (r *run) finish() {
	r.t.Helper()
	for range 1_000_000 {
		at, ok := r.Next()
		if !ok {
			return
		}
		r.Advance(at)
	}
	r.t.Fatal("the engine does not come to an end")
}

// told is the events as lines, of some kinds.
func (r *run) told(kinds ...Kind) string {
	var b strings.Builder
	for _, e := range r.events {
		if slices.Contains(kinds, e.Kind) {
			fmt.Fprintf(&b, "%v %d %s; ", e.At, e.ID, e.Kind)
		}
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// chain makes hashes of n blocks that no other name shares.
func chain(name string, n int) []uint64 {
	h := uint64(14695981039346656037)
	out := make([]uint64, n)
	for i := range out {
		for _, c := range []byte(name) {
			h = (h ^ uint64(c)) * 1099511628211
		}
		out[i] = h
	}
	return out
}

func TestStepTime(t *testing.T) {
	ms := func(v int) time.Duration { return time.Duration(v) * time.Millisecond }
	for _, test := range []struct {
		name     string
		requests []Request
		fault    Fault
		want     string
	}{
		{"one prompt, three tokens", []Request{{ID: 1, PromptTokens: 5, OutputTokens: 3}}, Fault{},
			"15ms 1 firstToken; 27ms 1 token; 39ms 1 token; 39ms 1 finished"},
		{"two share a step", []Request{{ID: 1, PromptTokens: 5, OutputTokens: 2}, {ID: 2, PromptTokens: 3, OutputTokens: 2}}, Fault{},
			"18ms 1 firstToken; 18ms 2 firstToken; 32ms 1 token; 32ms 1 finished; 32ms 2 token; 32ms 2 finished"},
		{"a prompt larger than the budget comes in chunks", []Request{{ID: 1, PromptTokens: 20, OutputTokens: 1}}, Fault{},
			"40ms 1 firstToken; 40ms 1 finished"}, // 10+16, 10+4
		{"decoding goes before chunks", []Request{{ID: 1, PromptTokens: 4, OutputTokens: 2}, {ID: 2, PromptTokens: 14, OutputTokens: 1}}, Fault{},
			// 10+4+12 for the first step; then 1 decodes (2 ms) and 2 has 2 tokens left.
			"26ms 1 firstToken; 40ms 1 token; 40ms 1 finished; 40ms 2 firstToken; 40ms 2 finished"},
		{"who arrives in a step waits for its end", []Request{{ID: 1, PromptTokens: 5, OutputTokens: 2}, {ID: 2, PromptTokens: 1, OutputTokens: 1, ArriveAt: ms(7)}}, Fault{},
			"15ms 1 firstToken; 28ms 1 token; 28ms 1 finished; 28ms 2 firstToken; 28ms 2 finished"},
		{"who arrives as a step ends is part of the next", []Request{{ID: 1, PromptTokens: 5, OutputTokens: 2}, {ID: 2, PromptTokens: 1, OutputTokens: 1, ArriveAt: ms(15)}}, Fault{},
			"15ms 1 firstToken; 28ms 1 token; 28ms 1 finished; 28ms 2 firstToken; 28ms 2 finished"},
		{"an idle engine begins at once", []Request{{ID: 1, PromptTokens: 1, OutputTokens: 1, ArriveAt: ms(100)}}, Fault{},
			"111ms 1 firstToken; 111ms 1 finished"},
		{"slowed down", []Request{{ID: 1, PromptTokens: 6, OutputTokens: 1}}, Fault{Speed: 0.4}, "40ms 1 firstToken; 40ms 1 finished"},
		{"every request fails", []Request{{ID: 1, PromptTokens: 6, OutputTokens: 1, ArriveAt: ms(3)}}, Fault{ErrorRate: 1}, "3ms 1 failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, small, 1)
			r.SetFault(test.fault)
			for _, q := range test.requests {
				r.submit(q)
			}
			r.finish()
			if got := r.told(FirstToken, Token, Finished, Failed); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestProfiles recomputes a step of each profile from the published coefficients.
func TestProfiles(t *testing.T) {
	for name, want := range map[string]time.Duration{ // 1000 prompt tokens, then one sequence
		"qwen2.5-7b-h100":  7050*time.Microsecond + 19500*time.Microsecond + 7050*time.Microsecond + 25400*time.Nanosecond,
		"qwen3-14b-h100":   13580*time.Microsecond + 39400*time.Microsecond + 13580*time.Microsecond + 27300*time.Nanosecond,
		"qwen3-32b-2xh100": 22*time.Millisecond + 46*time.Millisecond + 22*time.Millisecond + 170*time.Microsecond,
	} {
		p, err := ProfileByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for factor, want := range map[float64]time.Duration{1: want, 2: want / 2} {
			r := start(t, p.Scaled(factor), 0)
			r.submit(Request{ID: 1, PromptTokens: 1000, OutputTokens: 2})
			r.finish()
			if got := r.events[len(r.events)-1]; got.Kind != Finished || (got.At-want).Abs() > time.Microsecond {
				t.Errorf("%s x%v: %v, want it finished after %v", name, factor, got, want)
			}
		}
	}
	if _, err := ProfileByName("gpt-2"); err == nil || !strings.Contains(err.Error(), "qwen3-32b-2xh100") {
		t.Errorf("an unknown profile: %v", err)
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	p := small
	p.MaxSeqs = 1
	r := start(t, p, 0)
	for id := range uint64(5) {
		r.submit(Request{ID: id, PromptTokens: 4, OutputTokens: 2, ArriveAt: time.Duration(5-id) * time.Millisecond})
	}
	r.finish()
	if got := r.told(Finished); got != "27ms 4 finished; 53ms 3 finished; 79ms 2 finished; 105ms 1 finished; 131ms 0 finished" {
		t.Error(got)
	}
	s := r.Stats()
	// They began at 1, 27, 53, 79 and 105 ms.
	if want := (0 + 25 + 50 + 75 + 100) * time.Millisecond; s.QueueTime != want || s.Queued != 5 {
		t.Errorf("queued %d, %v, want 5, %v", s.Queued, s.QueueTime, want)
	}
}

func TestPrefixReuse(t *testing.T) {
	r := start(t, small, 0)
	prefix := chain("p", 3)
	r.submit(Request{ID: 1, Blocks: prefix, PromptTokens: 13, OutputTokens: 1}) // 10+13
	r.finish()
	r.submit(Request{ID: 2, Blocks: append(slices.Clone(prefix), chain("q", 1)...), PromptTokens: 16, OutputTokens: 1, ArriveAt: 100 * time.Millisecond}) // 12 of 16 are there
	r.submit(Request{ID: 3, Blocks: prefix, PromptTokens: 12, OutputTokens: 1, ArriveAt: 200 * time.Millisecond})                                         // the last block must be computed
	r.submit(Request{ID: 4, Blocks: chain("r", 3), PromptTokens: 12, OutputTokens: 1, ArriveAt: 300 * time.Millisecond})                                  // unknown
	r.finish()
	if got := r.told(FirstToken); got != "23ms 1 firstToken; 114ms 2 firstToken; 214ms 3 firstToken; 322ms 4 firstToken" {
		t.Error(got)
	}
	var cached []int
	for _, e := range r.events {
		if e.Kind == Started {
			cached = append(cached, e.Cached)
		}
	}
	if !slices.Equal(cached, []int{0, 12, 8, 0}) {
		t.Errorf("cached %v", cached)
	}
	s := r.Stats()
	if s.PromptTokens != 53 || s.CachedTokens != 20 || s.Computed != 33 || s.KVUsed != 0 {
		t.Errorf("%+v", s)
	}
	// Known: 3 of p, 1 of q, 3 of r.
	if want := 7.0 / 16; s.KVKept != want {
		t.Errorf("kept %v, want %v", s.KVKept, want)
	}
}

// TestSharedInOneStep holds the engine to letting requests of one step share what the step computes.
func TestSharedInOneStep(t *testing.T) {
	r := start(t, small, 0)
	r.submit(Request{ID: 1, Blocks: chain("p", 2), PromptTokens: 9, OutputTokens: 1})
	r.submit(Request{ID: 2, Blocks: chain("p", 2), PromptTokens: 9, OutputTokens: 1})
	r.finish()
	if got := r.told(FirstToken); got != "20ms 1 firstToken; 20ms 2 firstToken" { // 10 + 9 + 1
		t.Error(got)
	}
}

// TestOutputIsReused follows a conversation: the second turn contains the first one's answer.
func TestOutputIsReused(t *testing.T) {
	r := start(t, small, 0)
	talk := chain("talk", 4)
	r.submit(Request{ID: 1, Blocks: talk[:3], PromptTokens: 4, OutputTokens: 9}) // 12 of 13 tokens are in the cache: not the last
	r.finish()
	r.submit(Request{ID: 2, Blocks: talk, PromptTokens: 16, OutputTokens: 1})
	r.finish()
	if s := r.Stats(); s.CachedTokens != 12 {
		t.Errorf("cached %d, want 12", s.CachedTokens)
	}
}

func TestEviction(t *testing.T) {
	r := start(t, small, 0) // 16 blocks
	old, fresh := chain("old", 6), chain("fresh", 6)
	r.submit(Request{ID: 1, Blocks: old, PromptTokens: 25, OutputTokens: 1})
	r.submit(Request{ID: 2, Blocks: fresh, PromptTokens: 25, OutputTokens: 1, ArriveAt: time.Second})
	// 8 blocks: 12 are kept and 4 are free, so 4 of old go, from its end.
	r.submit(Request{ID: 3, PromptTokens: 31, OutputTokens: 1, ArriveAt: 2 * time.Second})
	r.submit(Request{ID: 4, Blocks: fresh, PromptTokens: 25, OutputTokens: 1, ArriveAt: 3 * time.Second})
	r.submit(Request{ID: 5, Blocks: old, PromptTokens: 25, OutputTokens: 1, ArriveAt: 4 * time.Second})
	r.finish()
	var cached []int
	for _, e := range r.events {
		if e.Kind == Started {
			cached = append(cached, e.Cached)
		}
	}
	if !slices.Equal(cached, []int{0, 0, 0, 24, 8}) {
		t.Errorf("cached %v", cached)
	}
	if s := r.Stats(); s.Preemptions != 0 {
		t.Errorf("%d preemptions", s.Preemptions)
	}
}

func TestPreemption(t *testing.T) {
	p := small
	p.KVTokens = 24 // 6 blocks
	r := start(t, p, 0)
	r.submit(Request{ID: 1, PromptTokens: 8, OutputTokens: 12})
	r.submit(Request{ID: 2, PromptTokens: 8, OutputTokens: 9})
	r.submit(Request{ID: 3, PromptTokens: 1, OutputTokens: 1, ArriveAt: 30 * time.Millisecond})
	for {
		at, ok := r.Next()
		if !ok {
			break
		}
		r.Advance(at)
	}
	// Both need a third block after their first token and a fourth four tokens later. Request 3 has had its block and given it back.
	want := "preempted 2, finished 1, finished 2"
	var got []string
	for _, e := range r.events {
		if e.ID != 3 && (e.Kind == Preempted || e.Kind == Finished) {
			got = append(got, fmt.Sprintf("%s %d", e.Kind, e.ID))
		}
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
	tokens := map[uint64]int{}
	for _, e := range r.events {
		if e.Kind == FirstToken || e.Kind == Token {
			if tokens[e.ID]++; e.Tokens != tokens[e.ID] {
				t.Errorf("token %d of request %d is counted as %d", tokens[e.ID], e.ID, e.Tokens)
			}
		}
	}
	if tokens[1] != 12 || tokens[2] != 9 || tokens[3] != 1 {
		t.Errorf("tokens %v", tokens)
	}
	s := r.Stats()
	if s.Preemptions != 1 || s.Computed != 17+8+5 { // request 2 had 5 tokens when it gave way
		t.Errorf("%d preemptions, %d computed", s.Preemptions, s.Computed)
	}
}

func TestCancel(t *testing.T) {
	p := small
	p.MaxSeqs = 1
	r := start(t, p, 0)
	r.submit(Request{ID: 1, Blocks: chain("a", 2), PromptTokens: 9, OutputTokens: 50})
	r.submit(Request{ID: 2, PromptTokens: 4, OutputTokens: 1})
	r.submit(Request{ID: 3, PromptTokens: 4, OutputTokens: 1})
	r.submit(Request{ID: 4, PromptTokens: 4, OutputTokens: 1, ArriveAt: time.Hour})
	r.Advance(40 * time.Millisecond) // in the third step
	if s := r.Stats(); s.Running != 1 || s.Waiting != 2 || s.KVUsed == 0 {
		t.Fatalf("%+v", s)
	}
	for _, id := range []uint64{1, 2, 4} {
		if !r.Cancel(id) {
			t.Errorf("request %d is not under way", id)
		}
		if r.Cancel(id) {
			t.Errorf("request %d is canceled twice", id)
		}
	}
	if s := r.Stats(); s.Running != 0 || s.Waiting != 1 || s.KVUsed != 0 || s.Canceled != 3 {
		t.Errorf("%+v", s)
	}
	r.finish()
	// The third step goes on to its end at 43 ms, as a GPU would; then request 3 takes 14 ms.
	if got := r.told(Finished, Canceled); got != "40ms 1 canceled; 40ms 2 canceled; 40ms 4 canceled; 57ms 3 finished" {
		t.Error(got)
	}
}

func TestStall(t *testing.T) {
	r := start(t, small, 0)
	r.submit(Request{ID: 1, PromptTokens: 4, OutputTokens: 2})
	r.Advance(5 * time.Millisecond)
	r.SetFault(Fault{Stalled: true})
	r.submit(Request{ID: 2, PromptTokens: 4, OutputTokens: 1})
	r.Advance(time.Second)
	if at, ok := r.Next(); ok {
		t.Errorf("a stalled engine has something to do at %v", at)
	}
	if s := r.Stats(); s.Running != 1 || s.Waiting != 1 || s.Busy != 14*time.Millisecond {
		t.Errorf("%+v", s)
	}
	r.SetFault(Fault{})
	r.finish()
	if got := r.told(FirstToken, Token); got != "14ms 1 firstToken; 1.016s 1 token; 1.016s 2 firstToken" {
		t.Error(got)
	}
}

func TestCrash(t *testing.T) {
	r := start(t, small, 0)
	r.submit(Request{ID: 1, Blocks: chain("a", 2), PromptTokens: 9, OutputTokens: 9})
	r.submit(Request{ID: 2, PromptTokens: 40, OutputTokens: 9})
	r.submit(Request{ID: 3, PromptTokens: 4, OutputTokens: 1, ArriveAt: time.Second})
	r.submit(Request{ID: 4, Blocks: chain("a", 2), PromptTokens: 9, OutputTokens: 1, ArriveAt: 2 * time.Second})
	r.Advance(5 * time.Millisecond)
	r.Crash()
	if s := r.Stats(); s.Running != 0 || s.Waiting != 0 || s.KVUsed != 0 || s.KVKept != 0 || s.Failed != 2 || s.Busy != 5*time.Millisecond || !r.Down() {
		t.Errorf("%+v", s)
	}
	r.Advance(1500 * time.Millisecond)
	r.Restart()
	r.finish()
	if got := r.told(Failed, Finished); got != "5ms 1 failed; 5ms 2 failed; 1s 3 failed; 2.019s 4 finished" {
		t.Error(got)
	}
}

func TestErrorRate(t *testing.T) {
	r := start(t, small, 7)
	r.SetFault(Fault{ErrorRate: 0.3})
	for id := range uint64(1000) {
		r.submit(Request{ID: id, PromptTokens: 1, OutputTokens: 1, ArriveAt: time.Duration(id) * time.Second})
	}
	r.finish()
	if s := r.Stats(); s.Failed < 250 || s.Failed > 350 || s.Failed+s.Finished != 1000 {
		t.Errorf("%d failed, %d finished", s.Failed, s.Finished)
	}
}

func TestUtilization(t *testing.T) {
	r := start(t, small, 0)
	r.submit(Request{ID: 1, PromptTokens: 10, OutputTokens: 1, ArriveAt: 10 * time.Millisecond})
	before := r.Stats()
	r.Advance(20 * time.Millisecond)
	half := r.Stats()
	r.Advance(60 * time.Millisecond)
	after := r.Stats()
	for _, test := range []struct{ got, want float64 }{
		{Utilization(before, half), 0.5}, {Utilization(half, after), 0.25}, {Utilization(before, after), 20.0 / 60}, {Utilization(after, after), 0},
	} {
		if test.got != test.want {
			t.Errorf("got %v, want %v", test.got, test.want)
		}
	}
}

func TestRefused(t *testing.T) {
	r := start(t, small, 0)
	r.submit(Request{ID: 1, PromptTokens: 1, OutputTokens: 1})
	for says, q := range map[string]Request{
		"both must be 1 at least":     {ID: 2, OutputTokens: 1},
		"0 output tokens":             {ID: 2, PromptTokens: 1},
		"more than the 64":            {ID: 2, PromptTokens: 64, OutputTokens: 1},
		"request 1 is under way":      {ID: 1, PromptTokens: 1, OutputTokens: 1},
		"request 2 has -1 prompt tok": {ID: 2, PromptTokens: -1, OutputTokens: 1},
	} {
		if err := r.Submit(q); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", q, err, says)
		}
	}
	for says, change := range map[string]func(*Profile){
		"must take time": func(p *Profile) { p.Step = 0 }, "hold a block": func(p *Profile) { p.KVTokens = 3 },
		"max seqs": func(p *Profile) { p.Budget = 0 }, "a step": func(p *Profile) { p.Decode = -1 },
	} {
		p := small
		change(&p)
		if _, err := New(p, Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// TestClosedLoop lets a client submit from within Emit, as it would at the end of its last answer.
func TestClosedLoop(t *testing.T) {
	var e *Engine
	done := 0
	e, err := New(small, Options{Emit: func(ev Event) {
		if ev.Kind != Finished {
			return
		}
		if done++; done < 10 {
			if err := e.Submit(Request{ID: ev.ID + 1, PromptTokens: 2, OutputTokens: 1, ArriveAt: ev.At}); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Submit(Request{ID: 1, PromptTokens: 2, OutputTokens: 1}); err != nil {
		t.Fatal(err)
	}
	e.Advance(time.Minute)
	if s := e.Stats(); done != 10 || s.Busy != 120*time.Millisecond || s.QueueTime != 0 {
		t.Errorf("%d done, %+v", done, s)
	}
}

// workload submits requests by chance, cancels some, and sets faults, and advances in uneven strides. It calls look after each.
func workload(t *testing.T, seed uint64, look func(*run)) *run {
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := small
	p.KVTokens, p.MaxSeqs, p.Budget = 4*(20+rnd.IntN(30)), 1+rnd.IntN(8), 8+rnd.IntN(40)
	r := start(t, p, seed)
	id := uint64(0)
	for range 300 {
		for range rnd.IntN(3) {
			id++
			prompt, output := 1+rnd.IntN(40), 1+rnd.IntN(30)
			blocks := chain(fmt.Sprint("group", rnd.IntN(4)), rnd.IntN(8))
			blocks = blocks[:min(len(blocks), (prompt+output)/4)]
			r.submit(Request{ID: id, Blocks: blocks, PromptTokens: prompt, OutputTokens: output, ArriveAt: r.Now() + time.Duration(rnd.IntN(40))*time.Millisecond})
		}
		switch rnd.IntN(20) {
		case 0:
			r.Cancel(1 + uint64(rnd.IntN(int(id)+1)))
		case 1:
			r.SetFault(Fault{Speed: 0.4 + rnd.Float64(), Stalled: rnd.IntN(3) == 0, ErrorRate: rnd.Float64() / 4})
		case 2:
			r.Crash()
		case 3, 4:
			r.Restart()
		}
		r.Advance(r.Now() + time.Duration(rnd.IntN(60))*time.Millisecond)
		look(r)
	}
	r.Restart()
	r.SetFault(Fault{})
	r.finish()
	look(r)
	return r
}

// audit recounts the cache and the queues from the sequences.
func audit(t *testing.T, e *Engine) {
	t.Helper()
	used, inUse := 0, map[*block]int{}
	for _, s := range e.running {
		if s.state != running {
			t.Fatalf("request %d runs in state %d", s.req.ID, s.state)
		}
		used += s.held.private
		if s.held.private < 0 {
			t.Fatalf("request %d has %d private blocks", s.req.ID, s.held.private)
		}
		for _, b := range s.held.known {
			inUse[b]++
		}
		if have := s.held.len() * e.profile.BlockTokens; have < s.computed {
			t.Fatalf("request %d has computed %d tokens in room for %d", s.req.ID, s.computed, have)
		}
	}
	for b, refs := range inUse {
		if e.kv.byHash[b.hash] != b || b.refs != refs {
			t.Fatalf("a block with %d users is counted as %d", refs, b.refs)
		}
	}
	kept := 0
	for _, b := range e.kv.byHash {
		if b.refs == 0 {
			kept++
		}
	}
	if used += len(inUse); used != e.kv.used || kept != e.kv.kept || used+kept > e.kv.capacity {
		t.Fatalf("used %d and kept %d of %d blocks, counted %d and %d", used, kept, e.kv.capacity, e.kv.used, e.kv.kept)
	}
	if len(e.running) > e.profile.MaxSeqs {
		t.Fatalf("%d run", len(e.running))
	}
	tokens := 0
	for _, w := range e.batch {
		tokens += w.tokens
	}
	if tokens > e.profile.Budget {
		t.Fatalf("a step of %d tokens", tokens)
	}
	all := e.waiting.all()
	for i, s := range all {
		if s.state != waiting || s.held.len() != 0 {
			t.Fatalf("request %d waits in state %d with %d blocks", s.req.ID, s.state, s.held.len())
		}
		if i > 0 && all[i-1].req.ArriveAt > s.req.ArriveAt {
			t.Fatalf("request %d waits behind request %d, which arrived later", s.req.ID, all[i-1].req.ID)
		}
	}
	if n := len(e.arrivals) + len(all) + len(e.running); n != len(e.byID) {
		t.Fatalf("%d requests are under way, %d are known", n, len(e.byID))
	}
	st := e.stats
	if st.Submitted != st.Finished+st.Failed+st.Canceled+uint64(len(e.byID)) {
		t.Fatalf("requests got lost: %+v, %d under way", st, len(e.byID))
	}
}

func TestInvariants(t *testing.T) {
	var preempted, cached, canceled, failed uint64
	for seed := range uint64(60) {
		r := workload(t, seed, func(r *run) { audit(t, r.Engine) })
		s := r.Stats()
		preempted, cached, canceled, failed = preempted+s.Preemptions, cached+s.CachedTokens, canceled+s.Canceled, failed+s.Failed
		if s.Waiting != 0 || s.Running != 0 || s.KVUsed != 0 {
			t.Fatalf("seed %d: not empty at the end: %+v", seed, s)
		}
		checkEvents(t, r.events)
	}
	if preempted < 100 || cached < 100 || canceled < 10 || failed < 100 {
		t.Errorf("the workloads do not exercise enough: %d preemptions, %d cached tokens, %d canceled, %d failed", preempted, cached, canceled, failed)
	}
}

// checkEvents holds each request's events to their order, and all of them to that of time.
func checkEvents(t *testing.T, events []Event) {
	t.Helper()
	type life struct {
		started, ended bool
		tokens         int
	}
	lives := map[uint64]*life{}
	var last, begun time.Duration
	for _, e := range events {
		if e.At < last {
			t.Fatalf("%+v comes after %v", e, last)
		}
		last = e.At
		l := lives[e.ID]
		if l == nil {
			l = &life{}
			lives[e.ID] = l
		}
		if l.ended {
			t.Fatalf("%+v comes after the end", e)
		}
		switch e.Kind {
		case Started:
			// First come, first served: who starts later has not arrived earlier.
			if l.started || e.At-e.Wait < begun {
				t.Fatalf("%+v starts out of order", e)
			}
			l.started, begun = true, e.At-e.Wait
		case FirstToken, Token:
			if l.tokens++; !l.started || e.Tokens != l.tokens || (e.Kind == FirstToken) != (l.tokens == 1) {
				t.Fatalf("%+v is token %d", e, l.tokens)
			}
		case Finished, Failed, Canceled:
			l.ended = true
		}
	}
	for id, l := range lives {
		if !l.ended {
			t.Fatalf("request %d has no end", id)
		}
	}
}

// TestDeterminism runs the same twice, and once in other strides.
func TestDeterminism(t *testing.T) {
	for seed := range uint64(5) {
		one := workload(t, seed, func(*run) {})
		two := workload(t, seed, func(r *run) { r.Advance(r.Now() - time.Second) })
		if !reflect.DeepEqual(one.events, two.events) || one.Stats() != two.Stats() {
			t.Fatalf("seed %d: two runs differ", seed)
		}
	}
	ends := func(stride time.Duration) []Event {
		r := start(t, small, 3)
		for id := range uint64(30) {
			r.submit(Request{ID: id, PromptTokens: 1 + int(id)%9, OutputTokens: 1 + int(id)%5, ArriveAt: time.Duration(id*id) * time.Millisecond})
		}
		for r.Stats().Finished < 30 {
			r.Advance(r.Now() + stride)
		}
		return r.events
	}
	want := ends(time.Hour)
	for _, stride := range []time.Duration{time.Millisecond, 7 * time.Millisecond, time.Second} {
		if !reflect.DeepEqual(ends(stride), want) {
			t.Errorf("strides of %v give other events", stride)
		}
	}
}

func BenchmarkSecond(b *testing.B) {
	p, err := ProfileByName("qwen3-32b-2xh100")
	if err != nil {
		b.Fatal(err)
	}
	e, err := New(p, Options{})
	if err != nil {
		b.Fatal(err)
	}
	id := uint64(0)
	for b.Loop() { // a second with 5 requests of 7200 + 1000 tokens
		for i := range 5 {
			id++
			q := Request{ID: id, Blocks: chain(fmt.Sprint(id%150), 375), PromptTokens: 7200, OutputTokens: 1000, ArriveAt: e.Now() + time.Duration(i)*200*time.Millisecond}
			if err := e.Submit(q); err != nil {
				b.Fatal(err)
			}
		}
		e.Advance(e.Now() + time.Second)
	}
}
