package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Duration is a time.Duration that reads and writes JSON as "50ms". The zero value means the
// default of its field; None, written as "0s", means no wait at all.
type Duration time.Duration

// None is a wait of no time, where zero would mean the default.
const None Duration = -1

// MarshalJSON writes the duration as a string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(max(d, 0)).String())
}

// UnmarshalJSON reads a string such as "1.5s".
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration must be a string such as \"50ms\", not %s", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration: write it like \"50ms\" or \"1.5s\"", s)
	}
	if v < 0 {
		return fmt.Errorf("the duration %q is negative", s)
	}
	*d = Duration(v)
	if v == 0 {
		*d = None
	}
	return nil
}

func (d Duration) or(def time.Duration) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		return 0
	}
	return time.Duration(d)
}

// Chunking is how the bytes of a reply are cut into writes on the connection.
type Chunking string

// The ways of chunking.
const (
	// Whole writes one event at a time. It is the default.
	Whole Chunking = "whole"
	// Split cuts every event into several writes at odd places: inside UTF-8 runes, between the line ends.
	Split Chunking = "split"
	// Batch puts several events into one write.
	Batch Chunking = "batch"
)

// Kind is what a Rule does.
type Kind string

// The kinds of faults.
const (
	// Status answers with an error status in the provider's format.
	Status Kind = "status"
	// Close ends the connection (or resets the HTTP/2 stream) before any response header.
	Close Kind = "close"
	// Hang never answers, until the client gives up.
	Hang Kind = "hang"
	// SlowRead reads the request body slowly: Delay for every 4 KiB.
	SlowRead Kind = "slow_read"
	// Disconnect breaks the connection after AfterEvents events of a stream, or in the middle of a plain body.
	Disconnect Kind = "disconnect"
	// StreamError sends the provider's error event after AfterEvents events, and ends the stream. A plain
	// request gets the same error as a status.
	StreamError Kind = "stream_error"
	// OKError is DashScope's error in the body of a 200.
	OKError Kind = "ok_error"
)

var kinds = []Kind{Status, Close, Hang, SlowRead, Disconnect, StreamError, OKError}

// Faults is how a server behaves: its pace, its chunking and its faults.
type Faults struct {
	// TTFT is the time to the first byte; 0 means 50 ms.
	TTFT Duration `json:"ttft"`
	// IntervalMin and IntervalMax bound the time between two tokens; 0 means 10 ms and 20 ms (or the
	// other bound, when only one is given and the default would contradict it).
	IntervalMin Duration `json:"interval_min"`
	IntervalMax Duration `json:"interval_max"`
	// Chunking is Whole when empty.
	Chunking Chunking `json:"chunking"`
	// Rules are tried in order for every request; the first that applies decides. SlowRead rules
	// apply beside that.
	Rules []Rule `json:"rules"`
}

// Rule is one fault and when it strikes. Without Next, Every and Rate it strikes every time.
type Rule struct {
	Kind Kind `json:"kind"`
	// Next counts the requests that are still to be struck; at zero the rule is gone.
	Next int `json:"next,omitempty"`
	// Every strikes each request whose number (among those the rule looks at) it divides.
	Every int `json:"every,omitempty"`
	// Rate strikes that share of requests, from 0 to 1.
	Rate float64 `json:"rate,omitempty"`
	// Path limits the rule to paths that begin with it. When empty the rule looks at POST requests only.
	Path string `json:"path,omitempty"`
	// Status is the HTTP status of a Status rule; 0 means 500.
	Status int `json:"status,omitempty"`
	// RetryAfter adds the header retry-after, in seconds rounded up, to a Status rule.
	RetryAfter Duration `json:"retry_after,omitempty"`
	// AfterEvents is how many events of a stream are sent before Disconnect and StreamError.
	AfterEvents int `json:"after_events,omitempty"`
	// Delay is the wait of SlowRead for every 4 KiB; 0 means 100 ms.
	Delay Duration `json:"delay,omitempty"`
}

func (f Faults) check(d Dialect) error {
	switch f.Chunking {
	case "", Whole, Split, Batch:
	default:
		return fmt.Errorf("sim: unknown chunking %q: use one of whole, split, batch", f.Chunking)
	}
	if lo, hi := f.interval(); lo > hi {
		return fmt.Errorf("sim: interval_min %v is above interval_max %v", lo, hi)
	}
	for i, r := range f.Rules {
		if err := r.check(d); err != nil {
			return fmt.Errorf("sim: rules[%d]: %w", i, err)
		}
	}
	return nil
}

func (r Rule) check(d Dialect) error {
	ways := 0
	for _, set := range []bool{r.Next != 0, r.Every != 0, r.Rate != 0} {
		if set {
			ways++
		}
	}
	switch {
	case !slices.Contains(kinds, r.Kind):
		return fmt.Errorf("unknown kind %q: use one of %v", r.Kind, kinds)
	case r.Kind == OKError && d != DashScope:
		return errors.New("ok_error exists in the dashscope dialect only")
	case ways > 1:
		return errors.New("give only one of next, every and rate")
	case r.Next < 0 || r.Every < 0 || r.AfterEvents < 0:
		return errors.New("next, every and after_events must not be negative")
	case r.Rate < 0 || r.Rate > 1:
		return fmt.Errorf("rate is %v: give a share from 0 to 1", r.Rate)
	case r.Status != 0 && r.Kind != Status:
		return errors.New("status belongs to rules of kind status")
	case r.Status != 0 && (r.Status < 400 || r.Status > 599):
		return fmt.Errorf("status is %d: give an error status from 400 to 599", r.Status)
	case r.RetryAfter != 0 && r.Kind != Status:
		return errors.New("retry_after belongs to rules of kind status")
	case r.AfterEvents != 0 && r.Kind != Disconnect && r.Kind != StreamError:
		return errors.New("after_events belongs to rules of kind disconnect and stream_error")
	case r.Delay != 0 && r.Kind != SlowRead:
		return errors.New("delay belongs to rules of kind slow_read")
	}
	return nil
}

// interval resolves the bounds between tokens.
func (f Faults) interval() (lo, hi time.Duration) {
	lo, hi = f.IntervalMin.or(10*time.Millisecond), f.IntervalMax.or(20*time.Millisecond)
	if f.IntervalMin == 0 && lo > hi {
		lo = hi
	}
	if f.IntervalMax == 0 && hi < lo {
		hi = lo
	}
	return lo, hi
}

// gate holds the faults in force and what they have counted. It is safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	dialect Dialect
	faults  Faults
	looked  []int // requests each rule has looked at
	rnd     *rand.Rand
}

func newGate(o Options) *gate {
	g := &gate{dialect: o.Dialect, rnd: rand.New(rand.NewPCG(o.Seed, 0xFA17))}
	g.put(o.Faults)
	return g
}

func (g *gate) put(f Faults) {
	f.Rules = slices.Clone(f.Rules)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults, g.looked = f, make([]int, len(f.Rules))
}

func (g *gate) set(f Faults) error {
	if err := f.check(g.dialect); err != nil {
		return err
	}
	g.put(f)
	return nil
}

// get returns the faults in force; the counters of Next show what is left.
func (g *gate) get() Faults {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.faults
	f.Rules = slices.Clone(f.Rules)
	return f
}

// decide returns the faults for one request: how slowly to read it, and what else happens.
func (g *gate) decide(method, path string) (f Faults, slow, strike *Rule) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f = g.faults
	spent := -1
	for i := range g.faults.Rules {
		r := &g.faults.Rules[i]
		if r.Path == "" && method != http.MethodPost || !strings.HasPrefix(path, r.Path) {
			continue
		}
		g.looked[i]++
		if r.Kind == SlowRead && slow != nil || r.Kind != SlowRead && strike != nil || !g.hits(r, g.looked[i]) {
			continue
		}
		hit := *r
		if r.Next > 0 {
			if r.Next--; r.Next == 0 {
				spent = i
			}
		}
		if r.Kind == SlowRead {
			slow = &hit
		} else {
			strike = &hit
		}
		if spent == i {
			r.Rate = -1 // never again; removed below
		}
	}
	if spent < 0 {
		return f, slow, strike
	}
	keep := g.faults.Rules[:0:0]
	counts := g.looked[:0:0]
	for i, r := range g.faults.Rules {
		if r.Rate >= 0 {
			keep, counts = append(keep, r), append(counts, g.looked[i])
		}
	}
	g.faults.Rules, g.looked = keep, counts
	return f, slow, strike
}

func (g *gate) hits(r *Rule, n int) bool {
	switch {
	case r.Next > 0:
		return true
	case r.Every > 0:
		return n%r.Every == 0
	case r.Rate > 0:
		return g.rnd.Float64() < r.Rate
	}
	return true
}
