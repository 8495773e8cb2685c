package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Dialect selects the provider to simulate.
type Dialect string

// The dialects. DashScope serves the native API and the OpenAI-compatible mode.
const (
	OpenAI    Dialect = "openai"
	Anthropic Dialect = "anthropic"
	DashScope Dialect = "dashscope"
)

// Dialects lists the dialects that can be simulated.
func Dialects() []Dialect { return []Dialect{OpenAI, Anthropic, DashScope} }

// Options configure a Server. Only Dialect is required.
type Options struct {
	Dialect Dialect
	// Models are the names served; empty means DefaultModels of the dialect. Names decide a little:
	// "embedding" in OpenAI names, "-vl", "-omni" and the like in DashScope names, version numbers in
	// Anthropic names select rules of the real API.
	Models []string
	// Key is the only credential accepted; "" accepts every one that is not empty.
	Key string
	// Faults are latency, chunking and faults to start with.
	Faults Faults
	// Seed varies the texts, ids and random faults; the same seed repeats them. Servers of one dialect
	// that take turns in a conversation need different seeds, or their tool call ids meet.
	Seed uint64
	// MaxBody bounds a request body in bytes; 0 means 32 MiB. Larger ones get 413.
	MaxBody int64
	// Ended, if set, is told of every request that is over, before it is counted: the statistics say only the sum, and the
	// journal forgets the oldest. Many goroutines call it.
	Ended func(Record)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Sleep waits, or returns early with the context's error; nil means a timer. Tests pass one that does not wait.
	Sleep func(context.Context, time.Duration) error
}

// DefaultModels are the models a dialect serves unless told otherwise.
func DefaultModels(d Dialect) []string {
	switch d {
	case OpenAI:
		return []string{"gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "gpt-5-mini", "o4-mini", "text-embedding-3-small", "text-embedding-3-large"}
	case Anthropic:
		return []string{"claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-7", "claude-3-5-haiku-20241022"}
	case DashScope:
		return []string{"qwen-plus", "qwen-turbo", "qwen-max", "qwen-long", "qwen3-32b", "qwq-plus", "qwen-vl-plus", "qwen-vl-max", "qwen3.5-plus", "text-embedding-v4"}
	}
	return nil
}

func (o Options) withDefaults() (Options, error) {
	if !slices.Contains(Dialects(), o.Dialect) {
		return o, fmt.Errorf("sim: unknown dialect %q: use one of openai, anthropic, dashscope", o.Dialect)
	}
	if len(o.Models) == 0 {
		o.Models = DefaultModels(o.Dialect)
	}
	for _, m := range o.Models {
		if strings.TrimSpace(m) == "" {
			return o, errors.New("sim: a model name is empty: give every model a name")
		}
	}
	if o.MaxBody < 0 {
		return o, fmt.Errorf("sim: MaxBody is %d: give a positive number of bytes, or 0 for 32 MiB", o.MaxBody)
	}
	if o.MaxBody == 0 {
		o.MaxBody = 32 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	return o, o.Faults.check(o.Dialect)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
