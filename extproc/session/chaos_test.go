package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
)

// flaky is a Store that fails when it is told to: before it does something, or after, so that nobody knows whether it was done.
type flaky struct {
	Store
	fails func(write bool) (before, after bool)
}

func (f *flaky) Get(ctx context.Context, at Ref) ([]byte, Version, error) {
	if before, after := f.fails(false); before || after {
		return nil, Version{}, ErrUnavailable
	}
	return f.Store.Get(ctx, at)
}

func (f *flaky) Put(ctx context.Context, at Ref, value []byte, was Version, l Life) (Version, error) {
	before, after := f.fails(true)
	if before {
		return Version{}, ErrUnavailable
	}
	v, err := f.Store.Put(ctx, at, value, was, l)
	if after && err == nil {
		return Version{}, ErrUnavailable
	}
	return v, err
}

// upon has a rig use another store, in place of the memory and of Redis.
func (r *rig) upon(s Store) *rig {
	r.stores.own, r.stores.shared = s, s
	return r
}

func sound(bool) (before, after bool) { return false, false }

// userTexts is what the user says in each turn.
func userTexts(t testing.TB, s *Session) (out []string) {
	t.Helper()
	if s == nil {
		return nil
	}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	for i := range s.Turns {
		in := s.Turns[i].Input[0]
		if in.Role == canon.RoleTool {
			out = append(out, "result of "+in.Parts[0].Result.ID)
			continue
		}
		out = append(out, in.Parts[0].Text)
	}
	return out
}

// TestNothingIsLost: many requests at once in one session, in replicas that are started anew, over a store that fails at times. What was kept is
// there once, what was not is not there, and results stand behind their calls.
func TestNothingIsLost(t *testing.T) {
	const replicas, workers, each, seeds = 3, 6, 15, 4
	var all struct{ kept, unsure, never int } // how a turn ends hangs on the scheduler, too: of one run alone some may be none
	run := func(t *testing.T, seed uint64, place Place, shared bool) {
		p := policyOf(with(t), encrypted(mustKey(t, 1)), func(p *Policy) { p.KeepTurns, p.KeepBytes, p.Redis = 10_000, 64<<20, shared })
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(seed, 7))
		draw := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return random.IntN(n)
		}
		first := newRig(t, place, p)
		store := &flaky{Store: first.storeOf(p), fails: func(write bool) (before, after bool) {
			n := draw(40)
			return n == 0, write && n == 1
		}}
		first.upon(store)
		live := []*rig{first}
		for len(live) < replicas {
			live = append(live, newRig(t, place, p).upon(store))
		}
		pick := func() *rig {
			mu.Lock()
			defer mu.Unlock()
			return live[random.IntN(replicas)]
		}
		var kept, unsure, never []string // what users have said
		note := func(list *[]string, text string) {
			mu.Lock()
			defer mu.Unlock()
			*list = append(*list, text)
		}
		turn := func(text, body string, answer *canon.Response) bool {
			begun, e := pick().Begin(context.Background(), p, Call{Address: ana, Dialect: dialect("openai"), Body: []byte(body), Headers: http.Header{}})
			if e != nil {
				t.Error(e)
				return false
			}
			switch draw(8) {
			case 0:
				begun.Abort(context.Background(), []string{EventFailed, EventAborted}[draw(2)])
				note(&never, text)
				return false
			case 1: // its process dies
				note(&never, text)
				return false
			}
			if err := begun.Commit(context.Background(), answer); err != nil {
				if !errors.Is(err, ErrUnavailable) {
					t.Error(err)
				}
				note(&unsure, text)
				return false
			}
			note(&kept, text)
			return true
		}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					id := fmt.Sprintf("c%d-%d", w, i)
					switch draw(10) {
					case 0: // a replica is started anew
						r := newRig(t, place, p).upon(store)
						mu.Lock()
						live[random.IntN(replicas)] = r
						mu.Unlock()
					case 1, 2:
						if turn("ask "+id, chat("ask "+id), calling(id, "f", "{}")) {
							turn("result of "+id, `{"model":"gpt","messages":[{"role":"tool","tool_call_id":"`+id+`","content":"17"}]}`, answered2("17"))
						}
					default:
						turn("say "+id, chat("say "+id+strings.Repeat(" and more", draw(200))), answered2("Shall I go on?"))
					}
				}
			})
		}
		wg.Wait()
		store.fails = sound
		s := live[0].get(p, ana)
		got := userTexts(t, s)
		times := map[string]int{}
		for i := range got {
			got[i], _, _ = strings.Cut(got[i], " and more")
			times[got[i]]++
		}
		for _, text := range kept {
			if times[text] != 1 {
				t.Errorf("seed %d: %q was kept, and is there %d times", seed, text, times[text])
			}
			delete(times, text)
		}
		for _, text := range unsure {
			if times[text] > 1 {
				t.Errorf("seed %d: %q is there %d times", seed, text, times[text])
			}
			delete(times, text)
		}
		if len(times) > 0 {
			t.Errorf("seed %d: nobody has kept %v", seed, times)
		}
		all.kept, all.unsure, all.never = all.kept+len(kept), all.unsure+len(unsure), all.never+len(never)
		for i, text := range got {
			if id, ok := strings.CutPrefix(text, "result of "); ok && (!s.Turns[i].Continues || got[i-1] != "ask "+id) {
				t.Errorf("seed %d: before %q stands %q", seed, text, got[i-1])
			}
		}
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("memory ", seed), func(t *testing.T) { run(t, seed, nil, false) })
		t.Run(fmt.Sprint("shared ", seed), func(t *testing.T) { run(t, seed, nil, true) })
	}
	t.Run("redis", func(t *testing.T) {
		_, place := redisPlace(t)
		run(t, 1, place, true)
	})
	if all.kept < seeds*workers*each || all.unsure == 0 || all.never == 0 {
		t.Errorf("%d turns are kept, %d may be, %d are not: this tests nothing", all.kept, all.unsure, all.never)
	}
}

// FuzzTurns takes bytes for what happens to a session, one after the other: requests begin, end, fail and are cut off in any order, the store
// fails, processes start anew, the session is erased.
func FuzzTurns(f *testing.F) {
	const (
		begin = iota
		commit
		abort
		breakRead
		breakWrite
		forgetWrite
		erase
		restart
		operations
	)
	f.Add([]byte{begin, begin, commit, commit})
	f.Add([]byte{begin, commit, begin, begin, erase, commit, begin, commit, commit})
	f.Add([]byte{begin, forgetWrite, commit, begin, commit, breakRead, begin, commit})
	f.Add([]byte{begin, begin, breakWrite, commit, restart, commit, begin, abort, begin, breakRead, erase, commit})
	f.Add([]byte{begin, commit, begin, begin, begin, forgetWrite, erase, commit, commit + operations, abort})
	f.Fuzz(func(t *testing.T, happens []byte) {
		if len(happens) > 200 {
			return
		}
		for _, shared := range []bool{false, true} {
			p := policyOf(with(t), func(p *Policy) { p.KeepTurns, p.Redis = 1000, shared })
			m := newRig(t, nil, p)
			var read, before, after bool // what fails next
			store := &flaky{Store: m.memory, fails: func(write bool) (bool, bool) {
				if !write {
					defer func() { read = false }()
					return read, false
				}
				defer func() { before, after = false, false }()
				return before, after
			}}
			m.upon(store)
			type open struct {
				turn *Turn
				text string
			}
			var running []open
			var kept []string
			unsure := map[string]bool{}
			take := func(op byte) (o open, ok bool) {
				if len(running) == 0 {
					return o, false
				}
				i := int(op/operations) % len(running)
				o = running[i]
				running = slices.Delete(running, i, i+1)
				return o, true
			}
			for step, op := range happens {
				switch op % operations {
				case begin:
					text := fmt.Sprint("turn ", step)
					running = append(running, open{m.begin(p, ana, "openai", chat(text)), text})
				case commit:
					if o, ok := take(op); ok {
						if err := o.turn.Commit(context.Background(), answered2("Shall I?")); err == nil {
							kept = append(kept, o.text)
						} else if !errors.Is(err, ErrErased) {
							unsure[o.text] = true
						}
					}
				case abort:
					if o, ok := take(op); ok {
						o.turn.Abort(context.Background(), EventAborted)
					}
				case breakRead:
					read = true
				case breakWrite:
					before = true
				case forgetWrite:
					after = true
				case erase:
					was, err := m.Erase(context.Background(), ana)
					if err != nil {
						for _, text := range kept {
							unsure[text] = true
						}
					}
					if was || err != nil {
						kept = nil
					}
					if was {
						clear(unsure)
					}
				case restart:
					again := newRig(t, nil, p)
					m = again.upon(store)
				}
			}
			read, before, after = false, false, false
			got := userTexts(t, m.get(p, ana))
			seen := map[string]bool{}
			var sure []string
			for _, text := range got {
				if seen[text] {
					t.Errorf("%v: %q is there twice", happens, text)
				}
				seen[text] = true
				if !unsure[text] {
					sure = append(sure, text)
				}
			}
			if !slices.Equal(sure, kept) {
				t.Errorf("%v: there is %q, and kept was %q", happens, sure, kept)
			}
		}
	})
}
