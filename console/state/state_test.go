package state

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that stands still.
type clock struct{ now time.Time }

func (c *clock) state() *State { return New(Options{Now: func() time.Time { return c.now }}) }

// done is a request of acme/ci that default/a has answered with 200, changed by edits.
func done(at time.Time, edits ...func(*usage.Finished)) *usage.Finished {
	f := &usage.Finished{
		At: at,
		Record: &usage.Record{
			RequestID: "req", Start: at.Add(-time.Second), Duration: time.Second, Status: 200, Details: "via_upstream", Route: "default/r", Backend: "default/a",
			Endpoint: "10.0.0.1:80", Tenant: "acme", Consumer: "ci", Attempts: 1, Trace: trace.Place{Span: "b7ad6b716920333"},
		},
		Open:  &usage.Open{ID: "x-1", Time: at.Add(-time.Second)},
		Entry: &ledger.Entry{ID: "x-1", Backend: "default/a", Tokens: ledger.Tokens{Input: 10, Output: 5}, Cost: 7},
	}
	for _, e := range edits {
		e(f)
	}
	return f
}

func refused(status int) func(*usage.Finished) {
	return func(f *usage.Finished) {
		f.Open, f.Entry = nil, nil
		f.Record.Status, f.Record.Immediate, f.Record.Backend, f.Record.Endpoint, f.Record.Attempts = status, true, "", "", 0
		f.Record.Refusal = "The limit is reached."
	}
}

func status(n int) func(*usage.Finished) {
	return func(f *usage.Finished) { f.Record.Status, f.Entry.Tokens = n, ledger.Tokens{} }
}

// fellBack has failed at default/b first.
func fellBack(f *usage.Finished) {
	f.Record.Attempts = 2
	f.Failed = []usage.Failed{{N: 1, Backend: "default/b", Endpoint: "10.0.0.2:80", Status: 503, Flags: "UF", Reason: "refused"}}
}

func TestOutcomes(t *testing.T) {
	for name, c := range map[string]struct {
		edit            func(*usage.Finished)
		outcome, reason string
	}{
		"answered": {func(*usage.Finished) {}, OK, ""},
		"models":   {func(f *usage.Finished) { refused(200)(f) }, OK, ""},
		"limit":    {refused(429), Refused, "The limit is reached."},
		"failed":   {status(500), Failed, "default/a answered 500"},
		"no time": {func(f *usage.Finished) {
			status(504)(f)
			f.Record.Flags = "UT"
		}, Failed, "default/a did not answer: time-out"},
		"closed": {func(f *usage.Finished) {
			status(503)(f)
			f.Record.Flags = "UC,URX"
		}, Failed, "default/a did not answer: connection lost"},
		"caller wrong": {status(400), Failed, "default/a answered 400"},
		"gone":         {func(f *usage.Finished) { f.Record.Aborted = true }, Aborted, "the caller went away"},
		"no answer":    {func(f *usage.Finished) { f.Record.Status, f.Record.Backend = 0, "" }, Aborted, "the caller went away"},
		"lost":         {func(f *usage.Finished) { f.Record = nil }, Interrupted, "Envoy ended before the answer did"},
		"too large": {func(f *usage.Finished) {
			refused(413)(f)
			f.Record.Immediate, f.Record.Refusal, f.Record.Details = false, "", "request_payload_too_large"
		}, Refused, "Envoy answered 413 (request payload too large)"},
		"nobody": {func(f *usage.Finished) {
			f.Record.Status, f.Record.Backend, f.Record.Details = 503, "", "upstream_reset_before_response_started{connection_failure}"
		}, Failed, "no backend answered (upstream reset before response started{connection failure})"},
		"broken": {func(f *usage.Finished) {
			f.Entry.Aborted, f.Record.Details = true, "upstream_reset_after_response_started"
		}, Failed, "the answer of default/a broke off (upstream reset after response started)"},
		"cut": {func(f *usage.Finished) { f.Entry.Cut = true }, OK, "the answer was ended because a budget was spent"},
	} {
		if r := newRequest(done(t0, c.edit)); r.Outcome != c.outcome || r.Reason != c.reason {
			t.Errorf("%s: %s, %q", name, r.Outcome, r.Reason)
		}
	}
}

func TestFailureOf(t *testing.T) {
	for _, c := range []struct {
		status int
		flags  string
		want   string
	}{
		{200, "", ""}, {404, "", ""}, {400, "DC", ""}, {429, "", "rate limit (429)"}, {401, "", "credential refused (401)"}, {500, "", "status 500"},
		{503, "UF,URX", "no connection"}, {0, "UT", "time-out"}, {503, "UC", "connection lost"}, {503, "UO", "too many connections or requests"},
		{503, "UH", "no healthy endpoint"}, {0, "DF", "name not found"}, {503, "URX", "status 503"},
	} {
		if got := FailureOf(c.status, c.flags); got != c.want {
			t.Errorf("%d %s: %q, want %q", c.status, c.flags, got, c.want)
		}
	}
}

// TestRequestsAreBounded: the newest stay, and of the others those that failed, and the slowest for an hour.
func TestRequestsAreBounded(t *testing.T) {
	c := clock{t0}
	s := c.state()
	add := func(n int, edit func(i int, f *usage.Finished)) {
		for i := range n {
			c.now = c.now.Add(time.Millisecond)
			s.Finished(done(c.now, func(f *usage.Finished) {
				f.Open.ID = fmt.Sprint("x-", s.Requests.seq+1)
				edit(i, f)
			}))
		}
	}
	add(1, func(_ int, f *usage.Finished) { f.Record.Duration = time.Hour })
	add(1, func(_ int, f *usage.Finished) { status(503)(f); f.Record.Duration = time.Microsecond })
	add(1, func(_ int, f *usage.Finished) { f.Record.Duration = time.Microsecond })
	add(1, func(_ int, f *usage.Finished) { refused(401)(f); f.Record.RequestID = "" })
	add(3*maxRecent, func(i int, f *usage.Finished) { f.Record.Duration = time.Duration(1+i) * time.Millisecond })
	for id, want := range map[string]bool{"x-1": true, "x-2": true, "x-3": false, "#4": false, "x-2000": false, "x-2950": true, "x-3004": true} {
		if got := s.Requests.Find(id) != nil; got != want {
			t.Errorf("%s is kept: %v", id, got)
		}
	}
	all := s.Requests.All()
	if len(all) > maxRecent+maxFailed+maxSlow || !slices.IsSortedFunc(all, func(a, b *Request) int { return int(int64(b.Seq) - int64(a.Seq)) }) {
		t.Errorf("%d are kept, or in no order", len(all))
	}
	c.now = c.now.Add(slowFor + time.Minute)
	add(maxRecent+maxSlow, func(int, *usage.Finished) {})
	if s.Requests.Find("x-1") != nil {
		t.Error("what was slow yesterday stays")
	}
	if got := s.Requests.Find("req"); got == nil || got.Seq != s.Requests.seq {
		t.Errorf("a request ID finds %+v, not the newest", got)
	}
}

func TestSince(t *testing.T) {
	x := newRequests()
	if list, skipped, last := x.Since(0, 5); list != nil || skipped != 0 || last != 0 {
		t.Errorf("nothing has come: %v %d %d", list, skipped, last)
	}
	for range maxRecent + 10 {
		x.add(newRequest(done(t0)))
	}
	list, skipped, last := x.Since(maxRecent, 4)
	if len(list) != 4 || skipped != 6 || last != maxRecent+10 || list[0].Seq != last || list[3].Seq != last-3 {
		t.Errorf("%d, %d, %d", len(list), skipped, last)
	}
	if list, skipped, _ := x.Since(0, 2*maxRecent); len(list) != maxRecent || skipped != 10 || list[maxRecent-1].Seq != 11 {
		t.Errorf("all: %d, %d", len(list), skipped)
	}
}

func TestTraffic(t *testing.T) {
	c := clock{t0}
	s := c.state()
	for range 4 {
		s.Finished(done(t0))
	}
	s.Finished(done(t0, fellBack))
	s.Finished(done(t0, refused(429)))
	s.Finished(done(t0.Add(time.Second), status(500)))
	edges, clients, totals := s.Traffic.Now(t0.Add(5 * time.Second))
	want := map[Edge]Counts{
		{FromClient, "acme", "ci", "default/r"}:                   {7, 2, 75},
		{Kind: FromRoute, From: "default/r", To: "default/a"}:     {6, 1, 75},
		{Kind: FromRoute, From: "default/r", To: "default/b"}:     {1, 1, 0},
		{Kind: FromBackend, From: "default/a", To: "10.0.0.1:80"}: {6, 1, 75},
		{Kind: FromBackend, From: "default/b", To: "10.0.0.2:80"}: {1, 1, 0},
	}
	for e, w := range want {
		if edges[e] != w {
			t.Errorf("%v: %v, want %v", e, edges[e], w)
		}
	}
	if len(edges) != len(want) || len(clients) != 1 || clients[0].Last != t0.Add(time.Second) || totals.Requests != 7 || totals.Errors != 2 || totals.Cost != 42 {
		t.Errorf("edges %v, clients %v, totals %+v", edges, clients, totals)
	}
	// The second that goes on is not counted yet, and what is older than the window no more.
	for _, x := range []struct {
		at   time.Duration
		want int64
	}{{0, 0}, {time.Second, 6}, {2 * time.Second, 7}, {Window, 7}, {Window + time.Second, 1}, {Window + 2*time.Second, 0}} {
		if _, _, totals := s.Traffic.Now(t0.Add(x.at)); totals.Requests != x.want {
			t.Errorf("after %s: %d requests, want %d", x.at, totals.Requests, x.want)
		}
	}
	if edges, clients, _ := s.Traffic.Now(t0.Add(seenFor)); len(edges) != 0 || len(clients) != 1 {
		t.Errorf("%v, %v", edges, clients)
	}
	if _, clients, _ := s.Traffic.Now(t0.Add(seenFor + 2*time.Second)); len(clients) != 0 {
		t.Errorf("clients are known for ever: %v", clients)
	}
}

// TestTenantBomb: however many callers somebody makes up, memory is bounded and nothing goes uncounted.
func TestTenantBomb(t *testing.T) {
	c := clock{t0}
	s := c.state()
	const n = 4 * maxClients
	for i := range n {
		s.Finished(done(t0, func(f *usage.Finished) { f.Record.Consumer = fmt.Sprint("c", i) }))
	}
	edges, clients, _ := s.Traffic.Now(t0.Add(time.Second))
	sum := int64(0)
	for e, c := range edges {
		if e.Kind == FromClient {
			sum += c.Requests
		}
	}
	if len(clients) > maxClients+1 || sum != n || edges[Edge{FromClient, Others, Others, Others}].Requests < n/2 {
		t.Errorf("%d clients, %d requests, others %v", len(clients), sum, edges[Edge{FromClient, Others, Others, Others}])
	}
	later := t0.Add(seenFor + time.Minute)
	s.Finished(done(later))
	if edges, _, _ := s.Traffic.Now(later.Add(time.Second)); edges[Edge{FromClient, "acme", "ci", "default/r"}].Requests != 1 {
		t.Error("after the bomb nobody is told apart any more")
	}
}

// TestPlaces: an address that stands for another is counted there, and one that nobody knows nowhere.
func TestPlaces(t *testing.T) {
	c := clock{t0}
	s := c.state()
	s.Use(func(backend, address string) string {
		return map[string]string{"10.0.0.1:80": "api.example:80"}[address]
	})
	s.Finished(done(t0, fellBack))
	edges, _, _ := s.Traffic.Now(t0.Add(time.Second))
	if edges[Edge{Kind: FromBackend, From: "default/a", To: "api.example:80"}].Requests != 1 || len(edges) != 4 {
		t.Errorf("%v", edges)
	}
}

// TestFinishedKeepsCopies: whoever called may use the record again.
func TestFinishedKeepsCopies(t *testing.T) {
	c := clock{t0}
	s := c.state()
	f := done(t0)
	f.Record.Signals = map[string]string{"a": "b"}
	s.Finished(f)
	*f.Record, *f.Entry = usage.Record{}, ledger.Entry{}
	if r := s.Requests.Find("x-1"); r == nil || r.Record.Route != "default/r" || r.Entry.Cost != 7 || r.Record.Signals != nil {
		t.Errorf("%+v", r)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	c := clock{t0}
	s := c.state()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 500 {
				s.Finished(done(t0.Add(time.Duration(j)*10*time.Millisecond), func(f *usage.Finished) {
					if j%3 == i%3 {
						status(503)(f)
					}
				}))
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			s.Requests.All()
			s.Traffic.Now(t0)
			s.History.All(t0)
			s.History.Events(0)
			s.History.Judge(t0, Subject{KindBackend, "default/a"})
		}
	})
	wg.Wait()
	if n := s.Requests.seq; n != 2000 {
		t.Errorf("%d requests", n)
	}
}

func BenchmarkFinished(b *testing.B) {
	c := clock{t0}
	s := c.state()
	f := done(t0)
	f.Open.ID = strings.Clone(f.Open.ID)
	b.ReportAllocs()
	for b.Loop() {
		s.Finished(f)
	}
}

// TestFinishedAllocates little: the request itself, and how its attempts ended.
func TestFinishedAllocates(t *testing.T) {
	c := clock{t0}
	s := c.state()
	f := done(t0)
	s.Finished(f)
	if n := testing.AllocsPerRun(200, func() { s.Finished(f) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

// TestLongTextsOfCallersAreNotKept: requests that nobody let in are kept as well.
func TestLongTextsOfCallersAreNotKept(t *testing.T) {
	k := clock{t0}
	s := k.state()
	long := strings.Repeat("x", 50_000)
	s.Finished(done(t0, refused(401), func(f *usage.Finished) {
		f.Record.RequestID, f.Record.UserAgent = long, long
		f.Failed = []usage.Failed{{N: 1, RequestID: long, Backend: "default/b"}}
	}))
	r := s.Requests.Find(long)
	if r == nil {
		t.Fatal("it is not found by its ID")
	}
	if n := len(fmt.Sprintf("%+v", *r)); n > 4*maxCallersText+2000 {
		t.Errorf("%d bytes are kept", n)
	}
}

// TestTTFTIsTheCallers: that of all is as that of each.
func TestTTFTIsTheCallers(t *testing.T) {
	k := clock{t0}
	s := k.state()
	s.Finished(done(t0, func(f *usage.Finished) {
		f.Record.FirstToken, f.Record.Timing.BackendSent = 200*time.Millisecond, 300*time.Millisecond
	}))
	_, _, sums := s.Traffic.Now(t0.Add(time.Second))
	if one := s.Requests.All()[0].TTFT(); one != 500*time.Millisecond || sums.TTFT != one || sums.Streams != 1 {
		t.Errorf("one says %s, all say %s of %d", one, sums.TTFT, sums.Streams)
	}
}
