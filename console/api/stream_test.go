package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/serve"
)

// sent is one event as a client reads it.
type sent struct{ id, name, data string }

// events are those of a message.
func events(m message) (out []sent) {
	var e sent
	for line := range strings.Lines(string(m)) {
		line = strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			if e.name != "" {
				out = append(out, e)
			}
			e = sent{}
		}
	}
	return out
}

func names(list []sent) string {
	var out []string
	for _, e := range list {
		out = append(out, e.name)
	}
	return strings.Join(out, " ")
}

func body[T any](t *testing.T, e sent) T {
	t.Helper()
	var out T
	if err := json.Unmarshal([]byte(e.data), &out); err != nil {
		t.Fatalf("%s: %v in %s", e.name, err, e.data)
	}
	return out
}

// mustJoin joins, and gives what the client is sent first.
func (r *rig) mustJoin(last string) (*client, []sent) {
	r.t.Helper()
	c, ok := r.join(last)
	if !ok {
		r.t.Fatal("there is no room")
	}
	return c, events(<-c.messages)
}

// step lets a second pass, and gives what a client is told.
func (r *rig) step(c *client) []sent {
	r.t.Helper()
	r.now = r.now.Add(time.Second)
	r.tick(r.now, r.stream.watched())
	select {
	case m := <-c.messages:
		return events(m)
	default:
		r.t.Fatal("nothing was sent")
		return nil
	}
}

func TestStream(t *testing.T) {
	r := newRig(t, 2)
	r.finish("before")
	r.tick(r.now, false)
	c, first := r.mustJoin("")
	if got := names(first); got != "topology config" {
		t.Fatalf("it begins with %s", got)
	}
	if top := body[Topology](t, first[0]); len(top.Backends) != 2 || len(top.Routes) != 3 || len(top.Edges) != 0 {
		t.Errorf("%+v", top)
	}
	// Edges count once their second is over.
	live := r.step(c)
	if l := body[Live](t, live[0]); names(live) != "live" || len(l.Edges) != 3 || l.Totals.Requests != 0.1 || len(l.Clients) != 0 {
		t.Errorf("%s %+v", names(live), live)
	}
	if got := r.step(c); names(got) != "live" || len(body[Live](t, got[0]).Edges) != 0 {
		t.Errorf("nothing has changed: %v", got)
	}
	r.finish("x-1")
	r.finish("x-2", failing(503))
	r.desk.Begin(open("x-3", r.now))
	got := r.step(c)
	if names(got) != "live requests event event event" {
		t.Fatalf("%v", got)
	}
	news := body[NewRequests](t, got[1])
	if len(news.Requests) != 2 || news.Requests[0].ID != "x-2" || news.Skipped != 0 || len(news.Running) != 1 || news.Running[0].ID != "x-3" {
		t.Errorf("%+v", news)
	}
	if e := body[Event](t, got[2]); e.Dependency != "backend:default/openai" || e.Text != "Requests fail: status 503." {
		t.Errorf("%+v", e)
	}
	if l := body[Live](t, got[0]); l.Totals.InFlight != 1 || len(l.Backends) != 1 || l.Backends[0].Health != state.StateDegraded || len(l.Endpoints) != 1 {
		t.Errorf("%+v", l)
	}
	// When nothing runs any more, that is said once.
	r.desk.Lost(r.now)
	if got := r.step(c); names(got) != "live requests" {
		t.Errorf("%v", got)
	}
	if got := r.step(c); names(got) != "live" {
		t.Errorf("%v", got)
	}
	// Another version is another topology, for everybody.
	r.serve(strings.Replace(objectsYAML(3), "port: 8000}", "port: 8001}", 1))
	got = r.step(c)
	if names(got) != "config topology event" || len(body[Topology](t, got[1]).Backends[1].Endpoints) != 3 {
		t.Errorf("%v", got)
	}
	// Edges that end come with zeros once.
	r.now = r.now.Add(state.Window)
	zeros := 0
	for _, e := range body[Live](t, r.step(c)[0]).Edges {
		if e.Rates != (Rates{}) {
			t.Errorf("%+v", e)
		}
		zeros++
	}
	if zeros == 0 {
		t.Error("nobody is told that the traffic has ended")
	}
	r.publisher.Store(&serve.State{Serving: "x", Rejected: "y", Reason: "no"})
	if got := r.step(c); !strings.HasPrefix(names(got), "config live event") || body[Configuration](t, got[0]).Rejected != "y" {
		t.Errorf("%v", got)
	}
}

// TestClientsSeeTheSame: whoever joins late, and is told the same from then on, sees what the others see.
func TestClientsSeeTheSame(t *testing.T) {
	r := newRig(t, 500)
	one, first := r.mustJoin("")
	a := body[Topology](t, first[0])
	change := func(n int) { // of more endpoints than are told of at once
		for i := range r.layouts.now().backends[1].Endpoints {
			r.State.Finished(&usage.Finished{At: r.now, Record: &usage.Record{
				Status: 200, Attempts: 1, Route: "default/all", Backend: "default/pool", Endpoint: r.layouts.now().backends[1].Endpoints[i].Address, Tenant: fmt.Sprint("t", i%n),
			}})
		}
	}
	change(3)
	apply(&a, r.step(one), t)
	change(7)
	two, late := r.mustJoin("")
	b := body[Topology](t, late[0])
	for range 6 {
		m := r.step(one)
		apply(&a, m, t)
		apply(&b, events(<-two.messages), t)
	}
	x, y := texts(a.Edges), texts(b.Edges)
	if x != y || len(a.Edges) < 500 {
		t.Errorf("the one has %d edges, the other %d", len(a.Edges), len(b.Edges))
	}
}

// apply does what a page does.
func apply(top *Topology, list []sent, t *testing.T) {
	t.Helper()
	edges := map[edgeKey]Edge{}
	for _, e := range top.Edges {
		edges[edgeKey{e.Kind, e.From, e.To}] = e
	}
	for _, s := range list {
		if s.name != StreamLive {
			continue
		}
		for _, e := range body[Live](t, s).Edges {
			if k := (edgeKey{e.Kind, e.From, e.To}); e.Rates == (Rates{}) {
				delete(edges, k)
			} else {
				edges[k] = e
			}
		}
	}
	top.Edges = nil
	for _, e := range edges {
		top.Edges = append(top.Edges, e)
	}
}

func texts(list []Edge) string {
	lines := map[string]bool{}
	for _, e := range list {
		lines[fmt.Sprint(e)] = true
	}
	out, _ := json.Marshal(lines)
	return string(out)
}

func TestResume(t *testing.T) {
	r := newRig(t, 1)
	c, _ := r.mustJoin("")
	r.finish("x-1")
	at := r.step(c)[0].id
	r.stream.leave(c)
	r.finish("x-2", failing(500))
	_, got := r.mustJoin(at)
	if names(got) != "topology config requests event" {
		t.Fatalf("%v", got)
	}
	if list := body[NewRequests](t, got[2]).Requests; len(list) != 1 || list[0].ID != "x-2" {
		t.Errorf("%+v", list)
	}
	// The position of another process, or of none, says nothing.
	for _, last := range []string{"ff-0-0", "x", "", strings.Replace(at, "-", "-9", 1)} {
		if _, got := r.mustJoin(last); names(got) != "topology config" {
			t.Errorf("%q: %s", last, names(got))
		}
	}
}

// TestSlowClients are cut off, and cost the others nothing.
func TestSlowClients(t *testing.T) {
	r := newRig(t, 1)
	slow, _ := r.mustJoin("")
	quick, _ := r.mustJoin("")
	for range streamRoom + 2 {
		r.step(quick)
	}
	select {
	case <-slow.gone:
	default:
		t.Error("it may lag behind for ever")
	}
	select {
	case <-quick.gone:
		t.Error("the other one is cut off, too")
	default:
	}
	for range maxStreams - 1 {
		r.mustJoin("")
	}
	if _, ok := r.join(""); ok {
		t.Error("there is room for any number")
	}
	w := r.get("/api/stream")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("retry-after") == "" || !strings.Contains(w.Body.String(), "64 streams are open already") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	r.stream.close()
	select {
	case <-quick.gone:
	default:
		t.Error("the end of the gateway ends no stream")
	}
	if _, ok := r.join(""); ok {
		t.Error("a stream begins after the end")
	}
}

// wrapped is a writer as those make it who stand before the API.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// TestStreamOverHTTP: what is sent arrives at once, through whatever stands around the writer.
func TestStreamOverHTTP(t *testing.T) {
	r := newRig(t, 1)
	ended := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mux.ServeHTTP(wrapped{w}, req)
		close(ended)
	}))
	defer s.Close()
	resp, err := http.Get(s.URL + "/api/stream")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("content-type") != "text/event-stream" || resp.Header.Get("cache-control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
	in := bufio.NewReader(resp.Body)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "event: config\n" {
			break
		}
	}
	resp.Body.Close()
	<-ended
	if r.stream.watched() {
		t.Error("a client that has gone is still served")
	}
}
