package extproc

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
)

func TestExchanges(t *testing.T) {
	x := newExchanges("abc")
	a, b := &exchange{id: x.newID(), body: []byte("12345"), wanted: true, expires: t0}, &exchange{id: x.newID(), body: []byte("1"), wanted: true, expires: t0.Add(time.Minute)}
	if a.id == b.id || !strings.HasPrefix(a.id, "abc-") {
		t.Errorf("IDs %q and %q", a.id, b.id)
	}
	x.put(a)
	x.put(b)
	if x.get(a.id) != a || x.get(b.id) != b || x.get("") != nil || x.get("abc-zz") != nil {
		t.Error("get does not find what was put, or finds what was not")
	}
	if n, bytes := x.size(); n != 2 || bytes != 6 {
		t.Errorf("size %d, %d", n, bytes)
	}
	if n := x.sweep(t0); n != 0 {
		t.Errorf("swept %d at the very time of expiry", n)
	}
	if n := x.sweep(t0.Add(time.Second)); n != 1 || x.get(a.id) != nil || x.get(b.id) != b {
		t.Errorf("swept %d", n)
	}
	x.drop(b.id)
	x.drop(b.id)
	x.drop("")
	x.drop("other-process-1")
	if n, bytes := x.size(); n != 0 || bytes != 0 {
		t.Errorf("size %d, %d after dropping all", n, bytes)
	}
	x.put(a)
	x.put(b)
	x.clear()
	if n, _ := x.size(); n != 0 {
		t.Errorf("%d are left after clear", n)
	}
}

// TestNeighboursShareNoLock: IDs count up, and requests that come at once must not meet in one shard.
func TestNeighboursShareNoLock(t *testing.T) {
	x := newExchanges("p")
	used := map[*exchangeShard]int{}
	const ids = 36 * 36
	for range ids {
		used[x.shard(x.newID())]++
	}
	for _, n := range used {
		if n > ids/16 {
			t.Errorf("a shard has %d of %d", n, ids)
		}
	}
}

func TestNthCountsEachBackend(t *testing.T) {
	e := &exchange{}
	for i, want := range []struct {
		backend string
		n       int
	}{{"a", 0}, {"b", 0}, {"a", 1}, {"a", 2}, {"b", 1}} {
		if got := e.nth(want.backend); got != want.n {
			t.Errorf("try %d of %s is its number %d, want %d", i, want.backend, got, want.n)
		}
	}
}

// TestLifeOfAnExchange: kept from the body to the end of the request, however that comes.
func TestLifeOfAnExchange(t *testing.T) {
	r := newRig(t, allTable(t))
	inFlight := func() string {
		n, bytes := r.server.InFlight()
		return fmt.Sprint(n, " ", bytes)
	}
	first := r.open(chatHeaders(), asks("gpt-all", false))
	if got := inFlight(); got != "0 0" {
		t.Errorf("before the body: %s", got)
	}
	first.body(chatBody)
	if got, want := inFlight(), fmt.Sprint("1 ", len(chatBody)); got != want {
		t.Errorf("with the body: %s, want %s", got, want)
	}
	first.end()
	if got, want := inFlight(), fmt.Sprint("1 ", len(chatBody)); got != want {
		t.Errorf("when the door's stream is closed and attempts may follow: %s, want %s", got, want)
	}
	r.server.Release(said(first.first, wire.KeyExchange))
	r.server.Release(said(first.first, wire.KeyExchange))
	r.server.Release("")
	if got := inFlight(); got != "0 0" {
		t.Errorf("after the record: %s", got)
	}

	// One that no record ever comes for, and no attempt.
	decided(t, r, chatHeaders(), false, chatBody)
	r.advance(unwantedLife)
	if n := r.server.Sweep(); n != 0 {
		t.Errorf("swept %d while an attempt may still come", n)
	}
	r.advance(time.Second)
	if n := r.server.Sweep(); n != 1 || inFlight() != "0 0" {
		t.Errorf("swept %d, left %s", n, inFlight())
	}

	// One that no record ever comes for, after an attempt.
	d := decided(t, r, chatHeaders(), false, chatBody)
	r.attempt(d.first, "chain/all", "default/anthropic", chatHeaders())
	r.advance(10*time.Minute + expiryMargin)
	if n := r.server.Sweep(); n != 0 {
		t.Errorf("swept %d while the request may still run", n)
	}
	r.advance(time.Second)
	if n := r.server.Sweep(); n != 1 || inFlight() != "0 0" {
		t.Errorf("swept %d, left %s", n, inFlight())
	}
}

// TestOldTableServesItsRequests: a request reads one table from its first byte to its last.
func TestOldTableServesItsRequests(t *testing.T) {
	r := newRig(t, allTable(t))
	d := decided(t, r, chatHeaders(), false, chatBody)
	r.server.Use(newRules(t).build()) // nothing is left of the rules and chains
	if resp := r.attempt(d.first, "chain/all", "default/anthropic", chatHeaders()); resp.GetRequestHeaders() == nil {
		t.Errorf("the attempt of an older decision is refused: %v", resp)
	}
	if resp := r.open(chatHeaders(), asks("gpt-all", false)).first; resp.GetImmediateResponse().GetStatus().GetCode() != 404 {
		t.Errorf("a new request is decided from the old table: %v", resp)
	}
}

// TestManyAtOnce runs whole requests on many streams while tables are swapped and exchanges are swept.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t, allTable(t))
	stop := make(chan struct{})
	var background, wg sync.WaitGroup
	other := allTable(t)
	background.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.server.Use(other)
				r.server.Sweep()
				r.server.InFlight()
			}
		}
	})
	for i := range 16 {
		wg.Go(func() {
			for j := range 10 {
				backend, answer := "default/anthropic", anthropicStream
				if (i+j)%2 == 0 {
					backend, answer = "default/dashscope", dashscopeStream
				}
				d := r.open(chatHeaders(), asks("gpt-all", true))
				d.body(strings.Replace(chatBody, `"model"`, `"stream":true,"model"`, 1))
				r.attempt(d.first, "chain/all", "default/openai", chatHeaders())
				r.attempt(d.first, "chain/all", backend, chatHeaders())
				d.answered(backend, false, ":status", "200", "content-type", "text/event-stream")
				var out strings.Builder
				for k := 0; k < len(answer); k += 100 {
					end := min(k+100, len(answer))
					out.Write(d.answerBody([]byte(answer[k:end]), end == len(answer)).GetBodyMutation().GetBody())
				}
				if text, finish, _, done := textOf(t, out.String()); text != "Héllo 世界" || finish != "stop" || !done {
					t.Errorf("got %q, %q, done %v", text, finish, done)
				}
				d.end()
			}
		})
	}
	wg.Wait()
	close(stop)
	background.Wait()
	if n, bytes := r.server.InFlight(); n != 0 || bytes != 0 {
		t.Errorf("%d exchanges with %d bytes are left", n, bytes)
	}
}
