package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/console/state"
	"github.com/weir-dev/weir/usage"
)

const (
	// maxStreams are served at once.
	maxStreams = 64
	// streamRoom is how many messages may wait for a client: one that is further behind is cut off, and begins anew.
	streamRoom = 32
	// writeWithin is how long a client may take to read a message.
	writeWithin = 10 * time.Second
	// shownRequests are in a NewRequests.
	shownRequests = 30
	// resumedEvents and resumedRequests are sent to a client that has missed some.
	resumedEvents, resumedRequests = 100, 200
	// retryAfter is when a client that was cut off comes back, in milliseconds.
	retryAfter = 2000
)

// message is one event of a stream, as it goes over the wire.
type message []byte

// hub sends every message to all clients. What a client does not read costs the others nothing. The zero value is ready.
type hub struct {
	mu      sync.Mutex
	clients map[*client]bool
	closed  bool
}

type client struct {
	messages chan message
	gone     chan struct{} // closed when it is cut off
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.clients) > 0
}

// join adds a client that begins with these messages. ok is false where there are too many.
func (h *hub) join(first ...message) (c *client, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.clients) >= maxStreams {
		return nil, false
	}
	c = &client{messages: make(chan message, streamRoom+len(first)), gone: make(chan struct{})}
	for _, m := range first {
		c.messages <- m
	}
	if h.clients == nil {
		h.clients = map[*client]bool{}
	}
	h.clients[c] = true
	return c, true
}

func (h *hub) leave(c *client) {
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
}

// send never waits: a client that has no room is cut off.
func (h *hub) send(m message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		select {
		case c.messages <- m:
		default:
			close(c.gone)
			delete(h.clients, c)
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for c := range h.clients {
		close(c.gone)
		delete(h.clients, c)
	}
}

// position is where a client is in what is numbered; it is the id of an event.
type position struct {
	started          int64 // of this process: the numbers of another mean nothing
	requests, events uint64
}

func (p position) String() string {
	return fmt.Sprintf("%x-%d-%d", p.started, p.requests, p.events)
}

// parsePosition reads an id. ok is false for what is none.
func parsePosition(id string) (p position, ok bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return p, false
	}
	var errs [3]error
	p.started, errs[0] = strconv.ParseInt(parts[0], 16, 64)
	p.requests, errs[1] = strconv.ParseUint(parts[1], 10, 64)
	p.events, errs[2] = strconv.ParseUint(parts[2], 10, 64)
	if errs != [3]error{} {
		return position{}, false
	}
	return p, true
}

// position of the streams. The lock is held.
func (a *API) position() position {
	return position{a.State.Started.UnixNano(), a.requests, a.events}
}

// event writes an event of a stream. The data is one line.
func event(id, name string, body any) message {
	data, err := json.Marshal(body)
	if err != nil { // bodies are structs of numbers and texts
		data = []byte("null")
	}
	out := make(message, 0, len(data)+len(id)+len(name)+24)
	out = append(out, "id: "...)
	out = append(out, id...)
	out = append(out, "\nevent: "...)
	out = append(out, name...)
	out = append(out, "\ndata: "...)
	out = append(out, data...)
	return append(out, "\n\n"...)
}

// tell tells the streams what is new.
func (a *API) tell(next *view) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.view.layout == nil {
		return // nobody has joined
	}
	var out []message
	list, skipped, last := a.State.Requests.Since(a.requests, shownRequests)
	events, lastEvent := a.State.History.Events(a.events)
	a.requests, a.events = last, lastEvent
	id := a.position().String()

	if conf := configurationOf(a.Publisher()); conf != a.config {
		a.config = conf
		out = append(out, event(id, StreamConfig, conf))
	}
	if next.layout != a.view.layout {
		a.view = *next
		out = append(out, event(id, StreamTopology, next.topology()))
	} else {
		out = append(out, event(id, StreamLive, a.view.catchUp(next)))
	}
	running := a.runningRequests(next.at, shownRequests)
	if len(list) > 0 || len(running) > 0 || a.running {
		out = append(out, event(id, StreamRequests, NewRequests{Requests: summaries(list), Skipped: skipped, Running: running}))
	}
	a.running = len(running) > 0
	for i := len(events) - 1; i >= 0; i-- {
		out = append(out, event(id, StreamEvent, eventOf(&events[i])))
	}
	// All of a moment as one, so that it takes one place however much it is.
	var all message
	for _, m := range out {
		all = append(all, m...)
	}
	a.stream.send(all)
}

// join begins a stream: with the topology, and with what the client has missed since its last.
func (a *API) join(last string) (*client, bool) {
	now := a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stream.watched() || a.view.layout == nil {
		a.view = a.look(now)
		_, _, a.requests = a.State.Requests.Since(^uint64(0), 0)
		_, a.events = a.State.History.Events(^uint64(0))
		a.config = configurationOf(a.Publisher())
	}
	here := a.position()
	id := here.String()
	first := message(fmt.Sprintf("retry: %d\n\n", retryAfter))
	first = append(first, event(id, StreamTopology, a.view.topology())...)
	first = append(first, event(id, StreamConfig, a.config)...)
	if p, ok := parsePosition(last); ok && p.started == here.started && p.requests <= here.requests && p.events <= here.events {
		list, skipped, _ := a.State.Requests.Since(p.requests, resumedRequests)
		if len(list) > 0 {
			first = append(first, event(id, StreamRequests, NewRequests{Requests: summaries(list), Skipped: skipped, Running: a.runningRequests(now, shownRequests)})...)
		}
		events, _ := a.State.History.Events(p.events)
		for i := min(len(events), resumedEvents) - 1; i >= 0; i-- {
			first = append(first, event(id, StreamEvent, eventOf(&events[i]))...)
		}
	}
	return a.stream.join(first)
}

func (a *API) serveStream(w http.ResponseWriter, r *http.Request) {
	c, ok := a.join(r.Header.Get("last-event-id"))
	if !ok {
		w.Header().Set("retry-after", "5")
		Fail(w, http.StatusServiceUnavailable, fmt.Sprintf("%d streams are open already, which is as many as are served; close a page that shows this gateway", maxStreams))
		return
	}
	defer a.stream.leave(c)
	h := w.Header()
	h.Set("content-type", "text/event-stream")
	h.Set("cache-control", "no-store")
	h.Set("x-accel-buffering", "no") // proxies must not hold it back
	rc := http.NewResponseController(w)
	for {
		select {
		case <-r.Context().Done():
			return
		case <-c.gone:
			return
		case m := <-c.messages:
			// Where the server cannot bound a write, the connection's own time-outs do.
			_ = rc.SetWriteDeadline(time.Now().Add(writeWithin))
			if _, err := w.Write(m); err != nil {
				return
			}
			if err := rc.Flush(); err != nil {
				return
			}
		}
	}
}

// runningRequests are the newest n of those in flight, the newest first.
func (a *API) runningRequests(now time.Time, n int) []RequestSummary {
	out := []RequestSummary{}
	for _, o := range a.newestOpen(n) {
		out = append(out, a.runningSummary(o, now))
	}
	return out
}

// newestOpen are the newest n requests in flight, the newest first; all for n below 0.
func (a *API) newestOpen(n int) []*usage.Open {
	var open []*usage.Open
	a.Desk.Each(func(o *usage.Open) bool {
		open = append(open, o)
		return true
	})
	sortOpen(open)
	if n >= 0 {
		open = open[:min(n, len(open))]
	}
	return open
}

func summaries(list []*state.Request) []RequestSummary {
	out := []RequestSummary{}
	for _, r := range list {
		out = append(out, summaryOf(r))
	}
	return out
}
