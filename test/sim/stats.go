package sim

import (
	"maps"
	"sync"
)

// Count is of requests that were answered and of their tokens. Cached and CacheWritten are parts of Input, Reasoning is a
// part of Output. Output counts what was sent, so a stream that broke off counts in part, and its input in full.
type Count struct {
	Requests     int `json:"requests"`
	Input        int `json:"input_tokens"`
	Cached       int `json:"cached_tokens"`
	CacheWritten int `json:"cache_written_tokens"`
	Output       int `json:"output_tokens"`
	Reasoning    int `json:"reasoning_tokens"`
}

func (c *Count) add(r *Record) {
	c.Requests++
	c.Input += r.Usage.Input
	c.Cached += r.Usage.Cached
	c.CacheWritten += r.Usage.CacheWritten
	c.Output += r.Tokens
	c.Reasoning += r.Reasoning
}

// Tally is what a provider would bill: every answer that began well. Of these, Aborted counts the ones whose client left
// before the end, and Broken the ones that a fault cut off; the rest are complete. An answer that was an error
// bills nothing, and neither does a request that was given up before its answer began.
type Tally struct {
	Count
	Aborted Count `json:"aborted"`
	Broken  Count `json:"broken"`
}

// Stats counts everything since the start, or since the records were deleted.
type Stats struct {
	Requests int `json:"requests"`
	// Running are the requests that have not ended.
	Running int `json:"running"`
	// Ends counts how requests ended, Statuses the response statuses, Faults the faults that struck.
	Ends     map[string]int `json:"ends"`
	Statuses map[int]int    `json:"statuses"`
	Faults   map[Kind]int   `json:"faults"`
	// Models and Credentials (by fingerprint) count what was served. Beyond 1000 names the rest is under "other".
	Models      map[string]Tally `json:"models"`
	Credentials map[string]Tally `json:"credentials"`
}

const maxNames = 1000

// counter holds the statistics. It is safe for concurrent use.
type counter struct {
	mu    sync.Mutex
	stats Stats
}

func newCounter() *counter {
	c := &counter{}
	c.reset()
	return c
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	running := c.stats.Running
	c.stats = Stats{Running: running, Ends: map[string]int{}, Statuses: map[int]int{}, Faults: map[Kind]int{},
		Models: map[string]Tally{}, Credentials: map[string]Tally{}}
}

func (c *counter) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Requests++
	c.stats.Running++
}

// end counts a request that is over. Only those that were served bill anything.
func (c *counter) end(r *Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.stats
	s.Running--
	s.Ends[r.End]++
	if r.Status != 0 {
		s.Statuses[r.Status]++
	}
	if r.Fault != "" {
		s.Faults[r.Fault]++
	}
	if r.Status == 0 || r.Status >= 400 || r.Summary.Model == "" {
		return
	}
	add(s.Models, r.Summary.Model, r)
	for _, fp := range r.Credentials {
		add(s.Credentials, fp, r)
	}
}

func add(m map[string]Tally, name string, r *Record) {
	if _, ok := m[name]; !ok && len(m) >= maxNames {
		name = "other"
	}
	t := m[name]
	t.add(r)
	switch r.End {
	case Aborted:
		t.Aborted.add(r)
	case Faulted:
		t.Broken.add(r)
	}
	m[name] = t
}

func (c *counter) get() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Ends, s.Statuses, s.Faults = maps.Clone(s.Ends), maps.Clone(s.Statuses), maps.Clone(s.Faults)
	s.Models, s.Credentials = maps.Clone(s.Models), maps.Clone(s.Credentials)
	return s
}
