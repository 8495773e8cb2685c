package relay

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
)

// A caller who leaves ends its own fill and nobody else's: each has a connection to itself.
func TestFillsShareNoConnection(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]bool{}
	arrived, leave := make(chan struct{}, 8), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		seen[req.Proto+" "+req.Header.Get("x-n")] = true
		mu.Unlock()
		arrived <- struct{}{}
		select {
		case <-leave:
			_, _ = io.WriteString(w, "{}")
		case <-req.Context().Done():
			arrived <- struct{}{}
		}
	})
	f := r.flight(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	ask := func(ctx context.Context, n string) (err error) {
		l, err := r.server.send(ctx, f, &order{path: "/v1/chat/completions", header: http.Header{"X-N": {n}}, body: []byte("{}")})
		if err == nil {
			_, err = io.ReadAll(l.Body)
			l.Body.Close()
		}
		return err
	}
	var stays error
	running.Go(func() { stays = ask(t.Context(), "stays") })
	<-arrived
	for range 3 {
		running.Go(func() {
			if ask(ctx, "leaves") == nil {
				t.Error("a fill that was given up has an answer")
			}
		})
		<-arrived
	}
	cancel()
	for range 3 {
		<-arrived
	}
	close(leave)
	running.Wait()
	if stays != nil || !seen["HTTP/1.1 stays"] || !seen["HTTP/1.1 leaves"] {
		t.Errorf("the fill that stays: %v; %v", stays, seen)
	}
}

// A fill that somebody has decided is never sent again, and one that nobody has is, as another.
func TestFillIsSentOnce(t *testing.T) {
	for name, taken := range map[string]bool{"decided": true, "undecided": false} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var ids []string
			r := newRig(t, nil)
			r.door.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				id := req.Header.Get(wire.FlightHeader)
				mu.Lock()
				ids = append(ids, id)
				n := len(ids)
				mu.Unlock()
				if n == 1 { // warms the connection, which is then used again
					r.flights.TakeFill(id)
					return
				}
				if taken || n == 3 {
					r.flights.TakeFill(id)
				}
				if n == 2 {
					panic(http.ErrAbortHandler)
				}
			})
			f := r.flight(nil)
			o := &order{path: "/v1/chat/completions", body: []byte("{}")}
			l, err := r.server.send(t.Context(), f, o)
			if err != nil {
				t.Fatal(err)
			}
			l.Body.Close()
			l, err = r.server.send(t.Context(), f, o)
			if err == nil {
				l.Body.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case taken && (err == nil || len(ids) != 2):
				t.Errorf("%v after %d sendings, want an error after 2", err, len(ids))
			case !taken && (err != nil || len(ids) != 3 || ids[1] == ids[2]):
				t.Errorf("%v after %q, want an answer to another fill", err, ids)
			}
		})
	}
}

// What never lands is forgotten: when its caller leaves, in time, and with Envoy.
func TestFlightsForget(t *testing.T) {
	now := time.Now()
	flights := NewFlights(func() time.Time { return now })
	put := func() (*Flight, *Fill) {
		f, fill := &Flight{ID: NewID()}, &Fill{ID: NewID()}
		flights.Put(f)
		flights.PutFill(fill)
		return f, fill
	}
	forgotten := func(f *Flight, fill *Fill) bool { return flights.Take(f.ID) == nil && flights.TakeFill(fill.ID) == nil }
	f, _ := put()
	flights.Drop(f.ID)
	if flights.Take(f.ID) != nil {
		t.Error("one whose caller has left is there")
	}
	now = now.Add(landing)
	if n := flights.Sweep(); n != 0 {
		t.Errorf("%d were forgotten too early", n)
	}
	now = now.Add(time.Nanosecond)
	if n := flights.Sweep(); n != 1 {
		t.Errorf("%d were forgotten, want the fill", n)
	}
	f, fill := put()
	flights.Clear()
	if !forgotten(f, fill) {
		t.Error("those of an Envoy that has died are there")
	}
}
