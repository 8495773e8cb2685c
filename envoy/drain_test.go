package envoy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

func TestDrainWaitsForStreams(t *testing.T) {
	f := newFixture(t, func(o *SupervisorOptions) { o.FlushGrace = time.Millisecond })
	f.startReady()
	pid := f.sup.PID()
	resp := f.openStream()

	stopped := make(chan error, 1)
	go func() { stopped <- f.sup.Stop(testContext(t)) }()
	eventually(t, "the listener stops accepting", f.refused)
	if n, err := f.admin.ActiveRequests(testContext(t)); err != nil || n != 1 {
		t.Errorf("ActiveRequests() = %d, %v while a stream is open", n, err)
	}
	var notReady *NotReadyError
	if err := f.admin.Ready(testContext(t)); !errors.As(err, &notReady) || notReady.State != "DRAINING" {
		t.Errorf("Ready() = %v while draining", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("Stop returned with a stream open: %v", err)
	default:
	}

	f.backend.finish()
	rest, err := io.ReadAll(resp.Body)
	if err != nil || string(rest) != streamLast {
		t.Errorf("the stream ended with %q, %v", rest, err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Stop: %v", err)
	}
	if !processGone(pid) {
		t.Error("Stop left Envoy running")
	}
}

func TestDrainAsksClientsToClose(t *testing.T) {
	f := newFixture(t, func(o *SupervisorOptions) { o.AcceptGrace = patience })
	f.startReady()
	go f.sup.Stop(context.Background())
	eventually(t, "health checks fail", func() bool { return f.admin.Ready(testContext(t)) != nil })
	// Within the grace, a client whom the load balancer still sends is served, and told not to come back.
	resp, err := http.Get(f.url("/"))
	if err != nil {
		t.Fatalf("refused within the grace: %v", err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("status %d, connection: close is %v", resp.StatusCode, resp.Close)
	}
	if err := f.sup.Stop(testContext(t)); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	f := newFixture(t, nil)
	f.startReady()
	pid := f.sup.PID()
	f.openStream()

	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- f.sup.Stop(ctx) }()
	eventually(t, "the listener stops accepting", f.refused)
	cancel()
	err := <-stopped
	var cut *DrainError
	if !errors.As(err, &cut) || cut.Active != 1 || !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v", err)
	}
	if !processGone(pid) {
		t.Error("Stop left Envoy running")
	}
}

// handClock gives out times that the test ends by hand.
type handClock struct{ waits chan chan time.Time }

func (handClock) Now() time.Time { return time.Time{} }
func (c handClock) After(time.Duration) <-chan time.Time {
	over := make(chan time.Time)
	c.waits <- over
	return over
}

// TestCutsFlush: Envoy lives on until it has sent the records of what has ended, however the drain ends, and as long as
// requests go on ending.
func TestCutsFlush(t *testing.T) {
	for name, end := range map[string]func(f *fixture, cancel func()){
		"the context ends":           func(_ *fixture, cancel func()) { cancel() },
		"a second stop is asked for": func(f *fixture, _ func()) { go f.sup.Stop(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			clock := handClock{make(chan chan time.Time)}
			f := newFixture(t, func(o *SupervisorOptions) { o.FlushGrace, o.Clock = time.Millisecond, clock })
			f.startReady()
			pid := f.sup.PID()
			f.openStream()
			ended := f.openStream()

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stopped := make(chan error, 1)
			go func() { stopped <- f.sup.Stop(ctx) }()
			eventually(t, "the listener stops accepting", f.refused)
			end(f, cancel)
			wait := func() chan time.Time {
				select {
				case over := <-clock.waits:
					return over
				case err := <-stopped:
					t.Fatalf("nothing was flushed: %v", err)
				case <-time.After(patience):
					t.Fatal("nothing was flushed")
				}
				return nil
			}
			first := wait()
			if processGone(pid) {
				t.Error("Envoy was ended before it could flush")
			}
			ended.Body.Close()
			eventually(t, "one request ends", func() bool { n, err := f.admin.ActiveRequests(testContext(t)); return err == nil && n == 1 })
			first <- time.Time{}
			second := wait() // for the record of the one that has ended meanwhile
			if processGone(pid) {
				t.Error("Envoy was ended before it could flush the last record")
			}
			second <- time.Time{}
			var cut *DrainError
			if err := <-stopped; !errors.As(err, &cut) || cut.Active != 1 {
				t.Errorf("Stop: %v", err)
			}
			if !processGone(pid) {
				t.Error("Stop left Envoy running")
			}
		})
	}
}

func TestSecondStopIsImmediate(t *testing.T) {
	f := newFixture(t, nil)
	f.startReady()
	pid := f.sup.PID()
	f.openStream()

	stopped := make(chan error, 1)
	go func() { stopped <- f.sup.Stop(context.Background()) }()
	eventually(t, "the listener stops accepting", f.refused)
	if err := f.sup.Stop(context.Background()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if !processGone(pid) {
		t.Error("the second Stop left Envoy running")
	}
	if err := <-stopped; !errors.Is(err, errHurried) {
		t.Errorf("first Stop: %v", err)
	}
	if err := f.sup.Stop(context.Background()); err != nil {
		t.Errorf("third Stop: %v", err)
	}
}

func TestDrainWhenEnvoyHangs(t *testing.T) {
	f := newFixture(t, nil)
	f.startReady()
	// The admin interface is gone although the process lives: nothing can be drained, and Stop has to end it.
	f.sup.admin = NewAdmin(f.dir.Path() + "/nobody.sock")
	pid := f.sup.PID()
	err := f.sup.Stop(testContext(t))
	var cut *DrainError
	var unreachable *UnreachableError
	if !errors.As(err, &cut) || cut.Active != -1 || !errors.As(err, &unreachable) {
		t.Errorf("Stop: %v", err)
	}
	if !processGone(pid) {
		t.Error("Stop left Envoy running")
	}
}
