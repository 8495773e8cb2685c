package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestOneFillForManyCallers: 1,000 callers, plain and stream alike, get one answer of one fill, live.
func TestOneFillForManyCallers(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	const callers = 1000
	var fills atomic.Int64
	goOn := make(chan struct{})
	fill := func(_ context.Context, w *Writer) error {
		fills.Add(1)
		h := okHead
		h.Stream = true
		if err := w.Begin(h); err != nil {
			return err
		}
		_, _ = io.WriteString(w, "first ")
		<-goOn
		for i := range 100 {
			if _, err := fmt.Fprintf(w, "%d ", i); err != nil {
				return err
			}
		}
		return nil
	}
	var want strings.Builder
	want.WriteString("first ")
	for i := range 100 {
		fmt.Fprintf(&want, "%d ", i)
	}
	var wg sync.WaitGroup
	var live, own atomic.Int64
	for range callers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			r := c.Do(ctx, a, fill)
			defer r.Close()
			if _, err := r.Head(ctx); err != nil {
				t.Error(err)
				return
			}
			if r.Outcome() == Miss {
				own.Add(1)
			}
			first := make([]byte, 6)
			if n, err := r.Read(ctx, first); string(first[:n]) != "first " || err != nil {
				t.Errorf("%q, %v", first[:n], err)
			}
			if live.Add(1) == callers { // everybody has the first byte before the last is there
				close(goOn)
			}
			if rest, err := readAll(r); "first "+rest != want.String() || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
	wg.Wait()
	if fills.Load() != 1 || own.Load() != 1 {
		t.Errorf("%d fills, %d callers bought", fills.Load(), own.Load())
	}
	get(t, c, a, Hit, want.String())
}

// blocked is a fill that waits, and says how it ended.
func blocked(began chan<- struct{}, goOn <-chan struct{}, ended chan<- error) Fill {
	return func(ctx context.Context, w *Writer) error {
		if err := w.Begin(okHead); err != nil {
			return err
		}
		began <- struct{}{}
		select {
		case <-goOn:
			_, err := io.WriteString(w, "whole")
			ended <- err
			return err
		case <-ctx.Done():
			ended <- context.Cause(ctx)
			return context.Cause(ctx)
		}
	}
}

func TestLeaderLeavesFollowersStay(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	began, goOn, ended := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	leader := c.Do(ctx, a, blocked(began, goOn, ended))
	<-began
	follower := c.Do(context.Background(), a, nil)
	defer follower.Close()
	cancel()
	leader.Close()
	leader.Close() // twice is once
	close(goOn)
	if got, err := readAll(follower); got != "whole" || err != nil || follower.Outcome() != Shared {
		t.Errorf("%q, %v, %s", got, err, follower.Outcome())
	}
	get(t, c, a, Hit, "whole")
}

func TestNobodyLeft(t *testing.T) {
	for _, keep := range []bool{false, true} {
		c := newCache(t, Options{})
		a := ask(policy(func(p *Policy) { p.KeepFilling = keep }), "q")
		began, goOn, ended := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
		r := c.Do(context.Background(), a, blocked(began, goOn, ended))
		<-began
		r.Close()
		if keep {
			close(goOn)
		}
		if err := <-ended; (err == nil) != keep || !keep && !errors.Is(err, errLeft) {
			t.Errorf("keep %v: it ended with %v", keep, err)
		}
		if keep {
			until(t, "it is kept", func() bool { return c.Get(context.Background(), a).Outcome == Hit })
			continue
		}
		get(t, c, a, Miss, "")
		buy(t, c, a, "again") // the flight that nobody wants is not joined
	}
}

// TestRefusalIsTheLeadersOwn: who is over a limit gets the refusal, and one of the others buys for the rest.
func TestRefusalIsTheLeadersOwn(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	goOn := make(chan struct{})
	var bought atomic.Int64
	fill := func(who int) Fill {
		return func(ctx context.Context, w *Writer) error {
			<-goOn
			if who < 2 {
				h := okHead
				h.Status = 429
				return w.Refuse(h, []byte(fmt.Sprint("over the limit of ", who)))
			}
			if !w.Claim() {
				return errors.New("another buys")
			}
			bought.Add(1)
			return answers("bought")(ctx, w)
		}
	}
	var readers []*Reader
	for i := range 20 {
		readers = append(readers, c.Do(context.Background(), a, fill(i)))
	}
	close(goOn)
	refused, own := 0, 0
	for i, r := range readers {
		h, err := r.Head(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(r)
		switch {
		case err != nil:
			t.Error(i, err)
		case i < 2 && h.Status == 429 && got == fmt.Sprint("over the limit of ", i) && r.Outcome() == Miss:
			refused++
		case h.Status == 200 && got == "bought":
			if r.Outcome() == Miss {
				own++
			}
		default:
			t.Errorf("%d: %d %q, %s", i, h.Status, got, r.Outcome())
		}
		r.Close()
	}
	// The second of the refused may be spared its refusal by who buys.
	if refused < 1 || own != 1 || bought.Load() != 1 {
		t.Errorf("%d refused, %d bought for themselves, %d fills", refused, own, bought.Load())
	}
	get(t, c, a, Hit, "bought")
}

// TestRefusalsAreNotInLine: when nobody is let in, all are asked about at once after the first.
func TestRefusalsAreNotInLine(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	const many = 500
	leader, asking, goOn := make(chan struct{}), make(chan struct{}, many), make(chan struct{})
	var readers []*Reader
	for i := range many {
		readers = append(readers, c.Do(context.Background(), a, func(_ context.Context, w *Writer) error {
			if i == 0 {
				<-leader
			} else {
				asking <- struct{}{}
				<-goOn
			}
			return w.Refuse(Head{Status: 429}, []byte(fmt.Sprint(i)))
		}))
	}
	close(leader)
	for range many - 1 { // all of them, before any is answered
		select {
		case <-asking:
		case <-time.After(patience):
			t.Fatal("they are asked about one after the other")
		}
	}
	close(goOn)
	for i, r := range readers {
		if got, err := readAll(r); got != fmt.Sprint(i) || err != nil {
			t.Errorf("%d: %q, %v", i, got, err)
		}
		r.Close()
	}
	until(t, "nothing is in flight", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.flights) == 0 })
}

// TestLetInEndsTheOthers: who still waits to be let in when one is waits no longer.
func TestLetInEndsTheOthers(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	leader := make(chan struct{})
	var readers []*Reader
	for i := range 10 {
		readers = append(readers, c.Do(context.Background(), a, func(ctx context.Context, w *Writer) error {
			switch i {
			case 0:
				<-leader
				return w.Refuse(Head{Status: 429}, []byte("no"))
			case 7:
				return answers("bought")(ctx, w)
			}
			<-ctx.Done() // in the queue of a limit
			return context.Cause(ctx)
		}))
	}
	close(leader)
	for i, r := range readers[1:] {
		if got, err := readAll(r); got != "bought" || err != nil || (r.Outcome() == Miss) != (i+1 == 7) {
			t.Errorf("%d: %q, %v, %s", i+1, got, err, r.Outcome())
		}
	}
	for _, r := range readers {
		r.Close()
	}
}

// TestAllRefused ends without anybody waiting.
func TestAllRefused(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	r := c.Do(context.Background(), a, func(_ context.Context, w *Writer) error {
		if err := w.Refuse(Head{Status: 403}, []byte("no")); err != nil {
			return err
		}
		if w.Begin(okHead) == nil || w.Refuse(Head{}, nil) == nil {
			t.Error("it answered twice")
		}
		return nil
	})
	if got, err := readAll(r); got != "no" || err != nil {
		t.Error(got, err)
	}
	r.Close()
	c.Refresh(context.Background(), a, func(_ context.Context, w *Writer) error { return w.Refuse(Head{Status: 403}, nil) })
	until(t, "nothing is in flight", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.flights) == 0 })
	get(t, c, a, Miss, "")
}

func TestErrorIsEverybodys(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	goOn := make(chan struct{})
	broken := errors.New("the upstream is gone")
	fill := func(context.Context, *Writer) error { <-goOn; return broken }
	one, two := c.Do(context.Background(), a, fill), c.Do(context.Background(), a, fill)
	defer one.Close()
	defer two.Close()
	close(goOn)
	for _, r := range []*Reader{one, two} {
		if _, err := readAll(r); !errors.Is(err, broken) {
			t.Error(err)
		}
	}
	buy(t, c, a, "later")
}

// TestSlowFollowerDoesNotStopOthers, where the answer is far too large to be held: memory is bounded, the fast reader gets it
// all, the slow one is cut off.
func TestSlowFollowerDoesNotStopOthers(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(func(p *Policy) { p.MaxEntryBytes = 1 << 10 }), "q")
	const size = 8 << 20
	goOn := make(chan struct{})
	r := c.Do(context.Background(), a, func(_ context.Context, w *Writer) error {
		if err := w.Begin(okHead); err != nil {
			return err
		}
		<-goOn
		chunk := make([]byte, 10_000)
		for n := 0; n < size; n += len(chunk) {
			for i := range chunk {
				chunk[i] = byte((n + i) % 251)
			}
			if _, err := w.Write(chunk[:min(len(chunk), size-n)]); err != nil {
				return err
			}
		}
		return nil
	})
	defer r.Close()
	slow := c.Do(context.Background(), a, nil)
	defer slow.Close()
	close(goOn)
	got, err := readAll(r)
	if err != nil || len(got) != size {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for i := range got {
		if got[i] != byte(i%251) {
			t.Fatalf("byte %d is wrong", i)
		}
	}
	if held := cap(r.buf.data); held > 8*window {
		t.Errorf("%d bytes are held", held)
	}
	if _, err := readAll(slow); !errors.Is(err, ErrSlow) {
		t.Errorf("the slow one ended with %v", err)
	}
	get(t, c, a, Miss, "")
}

// TestOnlyReaderSetsThePace: an answer too large to be held waits for who reads it.
func TestOnlyReaderSetsThePace(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(func(p *Policy) { p.MaxEntryBytes = 1 << 10 }), "q")
	var written atomic.Int64
	r := c.Do(context.Background(), a, func(_ context.Context, w *Writer) error {
		if err := w.Begin(okHead); err != nil {
			return err
		}
		for range 1000 {
			n, err := w.Write(make([]byte, 8<<10))
			if err != nil {
				return err
			}
			written.Add(int64(n))
		}
		return nil
	})
	until(t, "the writer waits", func() bool { return written.Load() >= window-(8<<10) })
	if n := written.Load(); n > 4*window {
		t.Errorf("%d bytes are written, and nobody has read", n)
	}
	if got, err := readAll(r); len(got) != 1000*8<<10 || err != nil {
		t.Error(len(got), err)
	}
	r.Close()
}

// TestBudgetOfFlights: when all buffers together are full, answers pass and are not kept.
func TestBudgetOfFlights(t *testing.T) {
	c := newCache(t, Options{FlightBytes: 100 << 10})
	p := policy(nil)
	text := strings.Repeat("x", 60<<10)
	goOn := make(chan struct{})
	hold := func(ctx context.Context, w *Writer) error {
		err := answers(text)(ctx, w)
		<-goOn
		return err
	}
	one := c.Do(context.Background(), ask(p, 1), hold)
	buf := make([]byte, 1)
	if _, err := one.Read(context.Background(), buf); err != nil {
		t.Fatal(err)
	}
	buy(t, c, ask(p, 2), text)
	get(t, c, ask(p, 2), Miss, "")
	close(goOn)
	if got, err := readAll(one); len(got) != len(text)-1 || err != nil {
		t.Error(len(got), err)
	}
	one.Close()
	get(t, c, ask(p, 1), Hit, text)
	if n := c.budget.used.Load(); n != 0 {
		t.Errorf("%d bytes of the budget are never given back", n)
	}
}

func TestReaderHeedsItsContext(t *testing.T) {
	c := newCache(t, Options{})
	a := ask(policy(nil), "q")
	began, goOn, ended := make(chan struct{}, 1), make(chan struct{}), make(chan error, 1)
	r := c.Do(context.Background(), a, blocked(began, goOn, ended))
	defer func() { close(goOn); <-ended }()
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := r.Read(ctx, make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestCloseEndsWhatTakesTooLong does not wait for ever.
func TestCloseEndsWhatTakesTooLong(t *testing.T) {
	c := New(Options{})
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	r := c.Do(context.Background(), ask(policy(nil), "q"), blocked(began, nil, ended))
	defer r.Close()
	<-began
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("drained")
	cancel(stop)
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, stop) {
		t.Error(err)
	}
}

// TestReadersSeeWhatIsWritten writes pieces at random while many read at their own pace, joining at any time.
func TestReadersSeeWhatIsWritten(t *testing.T) {
	for round := range 20 {
		c := newCache(t, Options{})
		a := ask(policy(nil), round)
		const pieces = 200
		var want strings.Builder
		for i := range pieces {
			fmt.Fprintf(&want, "<%d>", i*round)
		}
		fill := func(_ context.Context, w *Writer) error {
			if err := w.Begin(okHead); err != nil {
				return err
			}
			text := want.String()
			for n := 1; len(text) > 0; n = n*7%31 + 1 {
				n := min(n, len(text))
				if _, err := io.WriteString(w, text[:n]); err != nil {
					return err
				}
				text = text[n:]
			}
			return nil
		}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				r := c.Do(context.Background(), a, fill)
				defer r.Close()
				if got, err := readAll(r); got != want.String() || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		wg.Wait()
	}
}
