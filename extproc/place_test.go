package extproc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/extproc/pick"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/usage"
)

// The models of poolRules. What is asked of them is placed at the headers, or at the body where the prompt matters; it goes direct or
// through a chain.
var steeredModels = []string{"direct", "chained", "read", "read-chained", "translated"}

// poolRules has a rule for each of the models, to the pool gpu or, where the prompt matters, far.
func poolRules(r *rules) {
	r.backends["far"].Pick.Prefix = &pick.Prefix{BlockTokens: 16, MaxBlocks: 1000, MaxGapTokens: 1 << 20}
	r.table.Prompts = true
	r.add("direct", models("direct"), choice{"gpu", ""})
	r.add("chained", models("chained"), choice{"gpu", "another-name"})
	r.add("read", models("read"), choice{"far", ""})
	r.add("read-chained", models("read-chained"), choice{"far", "another-name"})
	r.add("translated", models("translated"), choice{"far", ""}, choice{"anthropic", "claude"}).Candidates[1].Priority = 1
}

func readsPrompt(model string) bool {
	return strings.HasPrefix(model, "read") || model == "translated" || model == "spill"
}

func chained(model string) bool { return strings.HasSuffix(model, "chained") || model == "translated" }

// poolOf is where poolRules sends a model first.
func poolOf(model string) string {
	if readsPrompt(model) {
		return "far"
	}
	return "gpu"
}

// decided brings a request as far as Envoy is told the way, and returns what told it. steered requests alone occupy a place.
func (r *steeredRig) decided(model, id string) (*door, *extprocv3.ProcessingResponse) {
	r.t.Helper()
	d := r.open(chatHeaders(), numbered(model, id))
	last := d.first
	if chained(model) || readsPrompt(model) {
		body := d.body(prompt(model))
		if readsPrompt(model) {
			last = body
		}
	}
	if said(last, wire.KeyExchange) == "" {
		r.t.Fatalf("%s is not let in: %v", model, last)
	}
	return d, last
}

// attempted plays the attempt of a request that goes through a chain.
func (r *steeredRig) attempted(model, backend string, last *extprocv3.ProcessingResponse) {
	if chained(model) {
		r.attempt(last, "chain/"+model, "default/"+backend, chatHeaders())
	}
}

// TestEndings: whatever becomes of a request, it gives back everything that it took.
func TestEndings(t *testing.T) {
	r := func(model string, change func(*usage.Record)) func(*steeredRig, *door, *extprocv3.ProcessingResponse) {
		return func(r *steeredRig, d *door, last *extprocv3.ProcessingResponse) {
			r.attempted(model, poolOf(model), last)
			d.end()
			r.record(last, func(rec *usage.Record) {
				rec.Backend, rec.Endpoint = "default/"+poolOf(model), said(last, wire.KeyEndpoints)
				change(rec)
			})
		}
	}
	for _, model := range steeredModels {
		for name, end := range map[string]func(*steeredRig, *door, *extprocv3.ProcessingResponse){
			"answered":              r(model, func(*usage.Record) {}),
			"failed":                r(model, func(rec *usage.Record) { rec.Status = 503 }),
			"refused by the server": r(model, func(rec *usage.Record) { rec.Status = 400 }),
			"no connection": r(model, func(rec *usage.Record) {
				rec.Status, rec.Details, rec.Backend, rec.Endpoint = 503, "upstream_reset", "", ""
			}),
			"left before the answer": r(model, func(rec *usage.Record) {
				rec.Status, rec.Aborted, rec.Details = 0, true, "downstream_remote_disconnect"
			}),
			"left in the middle":  r(model, func(rec *usage.Record) { rec.Aborted = true }),
			"no attempt was made": r(model, func(rec *usage.Record) { rec.Status, rec.Attempts, rec.Backend, rec.Endpoint = 503, 0, "", "" }),
			"recorded twice": func(s *steeredRig, d *door, last *extprocv3.ProcessingResponse) {
				for range 2 {
					s.record(last, func(rec *usage.Record) { rec.Backend = "default/" + poolOf(model) })
				}
			},
			"left before Envoy had the decision": func(s *steeredRig, d *door, last *extprocv3.ProcessingResponse) {
				d.end()
				s.desk.Close(&usage.Record{PeekID: "n-1", Aborted: true})
				s.server.Release(said(last, wire.KeyExchange))
			},
			"Envoy died": func(s *steeredRig, d *door, last *extprocv3.ProcessingResponse) {
				s.attempted(model, poolOf(model), last)
				s.server.ReleaseAll()
				s.desk.Lost(s.clock())
			},
			"no record ever comes": func(s *steeredRig, d *door, last *extprocv3.ProcessingResponse) {
				s.attempted(model, poolOf(model), last)
				d.end()
				s.advance(10*time.Minute + 2*expiryMargin + time.Second)
				s.desk.Sweep(s.clock())
				s.server.Sweep()
			},
		} {
			t.Run(model+"/"+name, func(t *testing.T) {
				s := newSteeredRig(t, poolRules)
				s.trip()
				d, last := s.decided(model, "n-1")
				if got := s.inFlight(poolOf(model)); !slices.Contains(got, 1) {
					t.Fatalf("in flight are %v", got)
				}
				end(s, d, last)
				s.settled()
				s.passFree()
				if !slices.Equal(s.statuses, []int{0}) {
					t.Errorf("metrics were told %v", s.statuses)
				}
			})
		}
	}
}

// TestEndingsOnTheWay: a request that does not get as far as Envoy being told the way has no record of its own, or none that names it.
func TestEndingsOnTheWay(t *testing.T) {
	for _, c := range []struct {
		name   string
		models []string // nil: all
		end    func(*testing.T, *steeredRig, string)
		status []int // that the metrics are told
	}{
		{"between headers and body", []string{"read", "read-chained", "translated"}, func(t *testing.T, s *steeredRig, model string) {
			d := s.open(chatHeaders(), numbered(model, "n-1"))
			if got := s.pool("far").Requests; got != 0 || s.desk.InFlight() != 0 {
				t.Errorf("a request that is not placed yet is in flight %d times, and on the desk %d times", got, s.desk.InFlight())
			}
			d.end()
		}, nil},
		{"between headers and body, of a request that has its place", []string{"chained"}, func(t *testing.T, s *steeredRig, model string) {
			s.open(chatHeaders(), numbered(model, "n-1")).end()
		}, []int{0}},
		{"Envoy answers while the body comes", []string{"read-chained", "translated", "chained"}, func(t *testing.T, s *steeredRig, model string) {
			d := s.open(chatHeaders(), numbered(model, "n-1"))
			d.answered("", true, ":status", "413")
			d.end()
		}, nil},
		{"a body that makes no sense", []string{"translated"}, func(t *testing.T, s *steeredRig, model string) {
			d := s.open(chatHeaders(), numbered(model, "n-1"))
			if got := d.body(`{"messages": 1}`).GetImmediateResponse().GetStatus().GetCode(); got != 400 {
				t.Errorf("status %d", got)
			}
			s.settled() // at once: others may be waiting
			d.end()
		}, []int{400}},
		{"a body that comes twice", []string{"read", "read-chained", "translated", "chained"}, func(t *testing.T, s *steeredRig, model string) {
			d, last := s.decided(model, "n-1")
			if err := d.stream.Send(bodyOf("{}")); err != nil {
				t.Fatal(err)
			}
			if _, err := d.stream.Recv(); err == nil {
				t.Error("is taken")
			}
			s.record(last, func(rec *usage.Record) { rec.Backend = "default/" + poolOf(model) })
		}, []int{0}},
		{"no endpoint", nil, func(t *testing.T, s *steeredRig, model string) {
			s.update(s.rules.backends["gpu"], 0, 1, 2)
			s.update(s.rules.backends["far"], 0, 1)
			s.set("anthropic", 0, false)
			d := s.open(chatHeaders(), numbered(model, "n-1"))
			resp := d.first
			if readsPrompt(model) {
				resp = d.body(prompt(model))
			}
			im := resp.GetImmediateResponse()
			if im.GetStatus().GetCode() != 503 || !strings.Contains(string(im.GetBody()), codeUnavailable) || immediateHeader(im, "retry-after") != "1" {
				t.Errorf("answered %v", resp)
			}
			s.settled()
			d.end()
		}, []int{503}},
		{"the decision does not reach Envoy", nil, func(t *testing.T, s *steeredRig, model string) {
			sc := brokenScript{script{in: []*extprocv3.ProcessingRequest{requestHeaders(chatHeaders(), numbered(model, "n-1"))}}, 0}
			if err := s.server.Process(&sc); err == nil {
				t.Error("the stream ends well")
			}
		}, nil},
		{"the answer to the body does not reach Envoy", []string{"read", "read-chained", "translated", "chained"}, func(t *testing.T, s *steeredRig, model string) {
			sc := brokenScript{script{in: []*extprocv3.ProcessingRequest{requestHeaders(chatHeaders(), numbered(model, "n-1")),
				bodyOf(prompt(model))}}, 1}
			if err := s.server.Process(&sc); err == nil {
				t.Error("the stream ends well")
			}
		}, []int{0}},
		{"a panic before it is placed", nil, func(t *testing.T, s *steeredRig, model string) {
			s.panics = func(where string) {
				if where == "steering" {
					panic("boom")
				}
			}
			s.broken(model)
		}, nil},
		{"a panic when it has its place", nil, func(t *testing.T, s *steeredRig, model string) {
			s.panics = func(where string) {
				if where == "desk" {
					panic("boom")
				}
			}
			s.broken(model)
		}, nil},
		{"Envoy takes the body and never asks again", []string{"chained", "read-chained", "translated"}, func(t *testing.T, s *steeredRig, model string) {
			d, _ := s.decided(model, "n-1")
			d.end()
			s.advance(unwantedLife + time.Second)
			s.desk.Sweep(s.clock())
			s.server.Sweep()
		}, []int{0}},
	} {
		list := c.models
		if list == nil {
			list = steeredModels
		}
		for _, model := range list {
			t.Run(c.name+"/"+model, func(t *testing.T) {
				s := newSteeredRig(t, poolRules)
				s.trip()
				c.end(t, s, model)
				until(t, "everything to be given back", func() bool { // a stream's end is heard of a moment later
					n, _ := s.server.InFlight()
					return s.desk.InFlight()+n == 0 && s.pool(poolOf(model)).Requests == 0
				})
				s.settled()
				s.passFree()
				if c.status != nil && !slices.Equal(s.statuses, c.status) {
					t.Errorf("metrics were told %v, want %v", s.statuses, c.status)
				}
			})
		}
	}
}

// broken asks for a model, and expects that the stream breaks.
func (r *steeredRig) broken(model string) {
	r.t.Helper()
	sc := script{in: []*extprocv3.ProcessingRequest{requestHeaders(chatHeaders(), numbered(model, "n-1")),
		bodyOf(prompt(model))}}
	if err := r.server.Process(&sc); err == nil {
		r.t.Error("there was no panic")
	}
	r.panics = func(string) {}
}

// brokenScript is a script of which only so many answers arrive.
type brokenScript struct {
	script
	arrive int
}

func (s *brokenScript) SendMsg(m any) error {
	if len(s.out) == s.arrive {
		return errors.New("the stream is broken")
	}
	return s.script.SendMsg(m)
}

func immediateHeader(im *extprocv3.ImmediateResponse, name string) string {
	for _, o := range im.GetHeaders().GetSetHeaders() {
		if o.GetHeader().GetKey() == name {
			return value(o.GetHeader())
		}
	}
	return ""
}

// narrow gives the pools room for one request in all, and for so many that wait.
func narrow(waiting int, wait time.Duration) func(*rules) {
	return func(r *rules) {
		for _, name := range []string{"gpu", "far"} {
			b := r.backends[name]
			b.Endpoints = b.Endpoints[:1]
			b.Pick.Admission = &pick.Admission{MaxRequests: 1, MaxWaiting: waiting, MaxWait: wait}
		}
		poolRules(r)
		r.add("spill", models("spill"), choice{"gpu", ""}, choice{"far", ""})
		r.add("reserve", models("reserve"), choice{"gpu", ""}, choice{"vllm", ""}).Candidates[1].Priority = 1
	}
}

// asking is a request that waits.
type asking struct {
	cancel context.CancelFunc
	stream extprocv3.ExternalProcessor_ProcessClient
	answer chan *extprocv3.ProcessingResponse // closed when the stream breaks
}

// ask asks for a model, up to the body, and does not wait for the last answer.
func (r *steeredRig) ask(model, id string) *asking {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.t.Cleanup(cancel)
	s, err := r.client.Process(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	d := &door{t: r.t, stream: s}
	last := requestHeaders(chatHeaders(), numbered(model, id))
	if readsPrompt(model) {
		d.send(last)
		last = bodyOf(prompt(model))
	}
	if err := s.Send(last); err != nil {
		r.t.Fatal(err)
	}
	a := &asking{cancel, s, make(chan *extprocv3.ProcessingResponse, 1)}
	go func() {
		defer close(a.answer)
		if resp, err := s.Recv(); err == nil {
			a.answer <- resp
		}
	}()
	return a
}

// TestWaiting: while a pool is full, requests wait for a place, at the headers or at the body.
func TestWaiting(t *testing.T) {
	for _, model := range []string{"direct", "read"} {
		pool := poolOf(model)
		setup := func(t *testing.T, waiting int, wait time.Duration) (*steeredRig, *extprocv3.ProcessingResponse) {
			s := newSteeredRig(t, narrow(waiting, wait))
			_, first := s.decided(model, "n-1")
			return s, first
		}
		end := func(s *steeredRig, decided *extprocv3.ProcessingResponse) {
			s.record(decided, func(rec *usage.Record) { rec.Backend, rec.Endpoint = "default/"+pool, said(decided, wire.KeyEndpoints) })
		}
		t.Run("room comes/"+model, func(t *testing.T) {
			s, first := setup(t, 1, time.Hour)
			a := s.ask(model, "n-2")
			until(t, "a request that waits", func() bool { return s.pool(pool).Waiting == 1 })
			s.advance(5 * time.Minute)
			end(s, first)
			second := <-a.answer
			if said(second, wire.KeyEndpoints) != s.rules.backends[pool].Endpoints[0] {
				t.Fatalf("goes on as %v", second)
			}
			if got := s.times(); !slices.Equal(got, []time.Duration{0, 0}) {
				t.Errorf("decisions took %v: waiting is no work", got)
			}
			// Its time begins now, not when it came.
			s.advance(9 * time.Minute)
			if n := s.desk.Sweep(s.clock()); n != 0 {
				t.Error("it is swept while it may still run")
			}
			end(s, second)
			s.settled()
		})
		t.Run("the caller leaves/"+model, func(t *testing.T) {
			s, first := setup(t, 1, time.Hour)
			a := s.ask(model, "n-2")
			until(t, "a request that waits", func() bool { return s.pool(pool).Waiting == 1 })
			s.advance(time.Minute)
			a.cancel()
			until(t, "it to be gone", func() bool { return s.pool(pool).Waiting == 0 })
			end(s, first)
			until(t, "its limits to be given back, and its decision to be counted", func() bool {
				return s.server.opts.Limits.States(1)[0].Subjects[0].Reserved == 0 && len(s.times()) == 2
			})
			if got := s.times(); !slices.Equal(got, []time.Duration{0, 0}) {
				t.Errorf("decisions took %v: waiting is no work", got)
			}
			s.settled()
		})
		t.Run("the time is over/"+model, func(t *testing.T) {
			s, first := setup(t, 1, time.Millisecond)
			im := (<-s.ask(model, "n-2").answer).GetImmediateResponse()
			if im.GetStatus().GetCode() != 429 || !strings.Contains(string(im.GetBody()), "none came free while the request waited") || immediateHeader(im, "retry-after") == "" {
				t.Errorf("answered %v", im)
			}
			end(s, first)
			s.settled()
			if !slices.Equal(s.statuses, []int{0, 429}) {
				t.Errorf("metrics were told %v", s.statuses)
			}
		})
		t.Run("no room to wait/"+model, func(t *testing.T) {
			s, first := setup(t, 0, time.Hour)
			if im := (<-s.ask(model, "n-2").answer).GetImmediateResponse(); im.GetStatus().GetCode() != 429 || !strings.Contains(string(im.GetBody()), "no room to wait") {
				t.Errorf("answered %v", im)
			}
			end(s, first)
			s.settled()
		})
		t.Run("Envoy dies/"+model, func(t *testing.T) {
			s, _ := setup(t, 1, time.Hour)
			a := s.ask(model, "n-2")
			until(t, "a request that waits", func() bool { return s.pool(pool).Waiting == 1 })
			a.cancel() // its connections break, and then the supervisor says so
			until(t, "it to be gone", func() bool { return s.pool(pool).Waiting == 0 })
			s.server.ReleaseAll()
			s.desk.Lost(s.clock())
			until(t, "everything to be given back", func() bool {
				return s.desk.InFlight() == 0 && s.pool(pool).Requests+int64(s.pool(pool).Waiting) == 0 && s.server.opts.Limits.States(1)[0].Subjects[0].Reserved == 0
			})
			s.settled()
		})
	}
}

// TestExchangeOfOneThatWaited: what is kept for its attempts is kept from when it goes on.
func TestExchangeOfOneThatWaited(t *testing.T) {
	s := newSteeredRig(t, narrow(1, time.Hour))
	_, first := s.decided("read-chained", "n-1")
	a := s.ask("read-chained", "n-2")
	until(t, "a request that waits", func() bool { return s.pool("far").Waiting == 1 })
	s.advance(unwantedLife + time.Second)
	s.record(first, func(rec *usage.Record) { rec.Backend = "default/far" })
	second := <-a.answer
	s.desk.Sweep(s.clock())
	s.server.Sweep()
	if resp := s.attempt(second, "chain/read-chained", "default/far", chatHeaders()); resp.GetRequestHeaders() == nil {
		t.Errorf("its attempt is refused: %v", resp)
	}
	s.record(second, func(rec *usage.Record) { rec.Backend = "default/far" })
	s.settled()
}

// TestChoice: which backend is asked first, and whether a request waits for it.
func TestChoice(t *testing.T) {
	const draws = 400
	for _, c := range []struct {
		name   string
		model  string
		before func(*steeredRig)
		want   map[string]float64 // parts of the requests, by what the route's name ends in
	}{
		{"by weight", "weighted", func(*steeredRig) {}, map[string]float64{"gpu": 0.75, "far": 0.25}},
		{"by weight and share", "weighted", func(s *steeredRig) { s.set("gpu", 1.0/3, true) }, map[string]float64{"gpu": 0.5, "far": 0.5}},
		{"one asks to be left alone", "weighted", func(s *steeredRig) { s.set("gpu", 0, true) }, map[string]float64{"far": 1}},
		{"all ask to be left alone", "weighted", func(s *steeredRig) { s.set("gpu", 0, true); s.set("far", 0, true) }, map[string]float64{"gpu": 0.75, "far": 0.25}},
		{"one is down", "weighted", func(s *steeredRig) { s.set("gpu", 0, false) }, map[string]float64{"far": 1}},
		{"one has no endpoint that is well, which only the picker knows", "weighted", func(s *steeredRig) { s.update(s.rules.backends["gpu"], 0, 1, 2) }, map[string]float64{"far": 1}},
		{"priority", "ranked", func(*steeredRig) {}, map[string]float64{"gpu": 1}},
		{"the first of priority is down", "ranked", func(s *steeredRig) { s.set("gpu", 1, false) }, map[string]float64{"vllm": 1}},
		{"the first of priority asks to be left alone", "ranked", func(s *steeredRig) { s.set("gpu", 0, true) }, map[string]float64{"vllm": 1}},
		{"all that is left asks to be left alone", "ranked", func(s *steeredRig) { s.set("gpu", 0, true); s.set("vllm", 0, false) }, map[string]float64{"gpu": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSteeredRig(t, func(r *rules) {
				r.add("weighted", models("weighted"), choice{"gpu", ""}, choice{"far", ""}).Candidates[0].Weight = 3
				r.add("ranked", models("ranked"), choice{"vllm", ""}, choice{"gpu", ""}).Candidates[0].Priority = 7
			})
			c.before(s)
			got := map[string]float64{}
			for range draws {
				sc := script{in: []*extprocv3.ProcessingRequest{requestHeaders(chatHeaders(), numbered(c.model, ""))}}
				if err := s.server.Process(&sc); err != nil {
					t.Fatal(err)
				}
				route := setHeader(sc.out[0], wire.RuleHeader)
				backend := route[strings.LastIndex(route, "-")+1:]
				got[backend] += 1.0 / draws
				if listed := said(sc.out[0], wire.KeyEndpoints) != ""; listed != s.rules.backends[backend].Named {
					t.Errorf("endpoints of %s are named: %v", backend, listed)
				}
			}
			for name := range got {
				if d := got[name] - c.want[name]; d < -0.12 || d > 0.12 {
					t.Errorf("%s gets %.2f of the requests, want %.2f", name, got[name], c.want[name])
				}
			}
		})
	}
}

// TestSpill: a request does not wait while another backend has room, of lower priority, too.
func TestSpill(t *testing.T) {
	for _, c := range []struct{ model, first, second, third string }{
		{"spill", "gpu", "far", ""}, {"reserve", "gpu", "vllm", "vllm"},
	} {
		s := newSteeredRig(t, narrow(1, time.Hour))
		var decided []*extprocv3.ProcessingResponse
		if c.model == "spill" { // either comes first
			_, one := s.decided(c.model, "n-1")
			_, two := s.decided(c.model, "n-2")
			decided = append(decided, one, two)
			got := []string{said(one, wire.KeyEndpoints), said(two, wire.KeyEndpoints)}
			slices.Sort(got)
			if want := []string{addresses(1, 1)[0], addresses(2, 1)[0]}; !slices.Equal(got, want) {
				t.Errorf("two requests go to %q, want %q", got, want)
			}
			a := s.ask(c.model, "n-3")
			until(t, "the third to wait", func() bool { return s.pool("gpu").Waiting+s.pool("far").Waiting == 1 })
			a.cancel()
			until(t, "the third to be gone", func() bool { return s.pool("gpu").Waiting+s.pool("far").Waiting == 0 })
		} else {
			for i, want := range []string{c.first, c.second, c.third} {
				_, resp := s.decided(c.model, fmt.Sprint("n-", i))
				decided = append(decided, resp)
				if got := setHeader(resp, wire.RuleHeader); !strings.HasSuffix(got, "-from-"+want) {
					t.Errorf("request %d goes to %s, want %s", i, got, want)
				}
			}
		}
		for _, resp := range decided {
			s.record(resp, func(*usage.Record) {})
		}
		until(t, "its limits to be given back", func() bool {
			return s.server.opts.Limits.States(1)[0].Subjects[0].Reserved == 0
		})
		s.settled()
	}
}

// TestExpect: whom attempts ask is told by their places; where Envoy chooses the first, it is the heaviest of those that come first.
func TestExpect(t *testing.T) {
	c := []*table.Candidate{{Weight: 9, Priority: 1}, {Weight: 1}, {Weight: 3}, {Weight: 3}}
	for _, x := range []struct {
		name   string
		of     []*table.Candidate
		order  []*table.Candidate
		places []uint8
		likely uint8
	}{
		{"one", c[:1], c[:1], nil, 0},
		{"an order", c, []*table.Candidate{c[2], c[1], c[0], c[2]}, []uint8{2, 1, 0, 2}, 2},
		{"Envoy chooses", c, nil, nil, 2},
		{"Envoy chooses among equals", []*table.Candidate{c[2], c[3]}, nil, nil, 0},
	} {
		places, likely := expect(&table.Variant{Candidates: x.of}, x.order)
		if !slices.Equal(places, x.places) || likely != x.likely {
			t.Errorf("%s: %v, %d, want %v, %d", x.name, places, likely, x.places, x.likely)
		}
	}
}
