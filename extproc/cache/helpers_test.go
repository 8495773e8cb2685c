package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
)

// patience bounds waits that only a broken cache exhausts.
const patience = 30 * time.Second

// clock is one that tests move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func policy(edit func(*Policy)) *Policy {
	p := &Policy{
		ID: "ns/p", Eligible: EligibleAll, TTL: time.Hour, MaxEntryBytes: 1 << 20, MemoryBytes: 16 << 20, MaxRedisEntryBytes: 1 << 20,
		NegativeTTL: 10 * time.Second,
	}
	if edit != nil {
		edit(p)
	}
	return p
}

func key(parts ...any) Key { return sha256.Sum256([]byte(fmt.Sprint(parts...))) }

func ask(p *Policy, k ...any) Ask {
	return Ask{Key: key(k...), Policy: p, Tenant: "acme", Consumer: "acme/bot", Model: "m"}
}

func newCache(t testing.TB, o Options) *Cache {
	t.Helper()
	if o.Random == nil {
		o.Random = func() float64 { return 0.999 }
	}
	c := New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := c.Close(ctx)
		if rm := c.redis.Load(); err != nil && (rm == nil || rm.writable()) { // else something may be lost
			t.Error(err)
		}
	})
	return c
}

var okHead = Head{Status: 200, Header: [][2]string{{"content-type", "application/json"}}, Dialect: "openai", Operation: canon.OpChat}

// bought is how answers of tests are bought.
var bought = Purchase{Backend: "ns/b", UpstreamModel: "m-1", Tokens: canon.Usage{Input: 3, Output: 5}}

// answers is a fill that gives this text at once.
func answers(text string) Fill {
	return func(_ context.Context, w *Writer) error {
		if err := w.Begin(okHead); err != nil {
			return err
		}
		w.Bought(bought)
		_, err := io.WriteString(w, text)
		return err
	}
}

// readAll reads to the end.
func readAll(r *Reader) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := r.Head(ctx); err != nil {
		return "", err
	}
	var out []byte
	buf := make([]byte, 1000)
	for {
		n, err := r.Read(ctx, buf)
		out = append(out, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return string(out), nil
		}
		if err != nil {
			return string(out), err
		}
	}
}

// buy buys an answer and reads it.
func buy(t testing.TB, c *Cache, a Ask, text string) {
	t.Helper()
	r := c.Do(context.Background(), a, answers(text))
	defer r.Close()
	if got, err := readAll(r); err != nil || got != text {
		t.Fatalf("bought %q, %v; not %q", got, err, text)
	}
}

func get(t testing.TB, c *Cache, a Ask, outcome Outcome, text string) Lookup {
	t.Helper()
	l := c.Get(context.Background(), a)
	if l.Outcome != outcome || l.Entry != nil && string(l.Entry.Body) != text || l.Entry == nil && outcome != Miss {
		body := ""
		if l.Entry != nil {
			body = string(l.Entry.Body)
		}
		t.Fatalf("got %s %q, not %s %q", l.Outcome, body, outcome, text)
	}
	return l
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
