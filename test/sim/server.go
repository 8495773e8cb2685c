package sim

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/anthropic"
	"github.com/weir-dev/weir/test/sim/internal/dashscope"
	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/openai"
	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// provider is what a dialect offers: pure functions from requests to replies.
type provider interface {
	// Serve answers a request.
	Serve(*exchange.Request) *exchange.Reply
	// Failure is the dialect's error of a status.
	Failure(r *exchange.Request, status int) *exchange.Reply
	// StreamFailure is its error event within a stream, after a number of events.
	StreamFailure(r *exchange.Request, after int) []byte
}

// Server is one simulated provider. It is safe for concurrent use.
type Server struct {
	opts     Options
	provider provider
	cache    *tokens.Cache
	gate     *gate
	journal  *journal
	counter  *counter
	control  http.Handler
}

// New makes a server. It does not listen: use it as an http.Handler, or call ListenAndServe.
func New(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, cache: tokens.NewCache(), gate: newGate(o), journal: &journal{}, counter: newCounter()}
	switch o.Dialect {
	case OpenAI:
		s.provider = openai.Provider{Prefix: "/v1"}
	case Anthropic:
		s.provider = anthropic.Provider{}
	case DashScope:
		s.provider = dashscope.Provider{}
	}
	s.control = s.controlHandler()
	return s, nil
}

// Dialect is the dialect of the server.
func (s *Server) Dialect() Dialect { return s.opts.Dialect }

// Requests returns the records of the newest requests (at most 1000), oldest first. Bodies are whole,
// unless memory ran short.
func (s *Server) Requests() []Record { return s.journal.recent(0) }

// Reset forgets the records and statistics.
func (s *Server) Reset() {
	s.journal.clear()
	s.counter.reset()
}

// Faults returns the behaviour in force; Next of a rule shows what is left of it.
func (s *Server) Faults() Faults { return s.gate.get() }

// SetFaults replaces pace, chunking and faults, for requests that begin after it.
func (s *Server) SetFaults(f Faults) error { return s.gate.set(f) }

// Stats returns the counts.
func (s *Server) Stats() Stats { return s.counter.get() }

// ServeHTTP serves the provider's API, and the control API under /_sim/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_sim/") {
		s.control.ServeHTTP(w, r)
		return
	}
	c := s.begin(r)
	broken := c.serve(w, r)
	c.end()
	if broken {
		panic(http.ErrAbortHandler) // the way to break a connection: net/http resets it without a word in the log
	}
}

// call is one request on its way through the server.
type call struct {
	s      *Server
	rec    Record
	faults Faults
	slow   *Rule
	strike *Rule
	rnd    *rand.Rand
	ended  bool
}

func (s *Server) begin(r *http.Request) *call {
	c := &call{s: s}
	c.rec = Record{At: s.opts.Now(), Method: r.Method, Path: r.URL.Path, Protocol: r.Proto, End: Running}
	c.rec.Header, c.rec.Query, c.rec.Credentials = redact(r.Header, r.URL.Query())
	c.rec.ID = s.journal.begin(c.rec)
	s.counter.begin()
	c.faults, c.slow, c.strike = s.gate.decide(r.Method, r.URL.Path)
	c.rnd = rand.New(rand.NewPCG(s.opts.Seed, c.rec.ID))
	return c
}

// end closes the record, once.
func (c *call) end() {
	if c.ended {
		return
	}
	c.ended = true
	c.rec.Duration = Duration(c.s.opts.Now().Sub(c.rec.At))
	done := c.rec
	if c.s.opts.Ended != nil {
		c.s.opts.Ended(done)
	}
	c.s.counter.end(&c.rec)
	c.s.journal.update(done.ID, func(r *Record) {
		body := r.Body
		*r = done
		r.Body = body
	})
}

// struck notes that the fault of this request happened.
func (c *call) struck() { c.rec.End, c.rec.Fault = Faulted, c.strike.Kind }

// serve answers, and tells whether the connection is to be broken.
func (c *call) serve(w http.ResponseWriter, r *http.Request) (broken bool) {
	body, err := c.read(w, r)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		c.rec.End = Aborted
		return true
	}
	c.rec.BodySize = len(body)
	c.s.journal.update(c.rec.ID, func(rec *Record) { rec.Body, rec.BodySize = string(body), len(body) })

	o := c.s.opts
	req := &exchange.Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Header: r.Header, Body: body,
		Models: o.Models, Key: o.Key, Seed: o.Seed, Seq: c.rec.ID, Realm: string(o.Dialect), Now: c.rec.At, Cache: c.s.cache}
	if tooLarge != nil {
		return c.plain(w, r, c.s.provider.Failure(req, http.StatusRequestEntityTooLarge))
	}
	if c.strike != nil {
		switch c.strike.Kind {
		case Close:
			c.struck()
			return true
		case Hang:
			c.struck()
			<-r.Context().Done()
			return true
		case Status:
			c.struck()
			return c.plain(w, r, c.failure(req))
		case OKError:
			c.struck()
			return c.plain(w, r, c.s.provider.(dashscope.Provider).OK(req))
		}
	}
	rep := c.s.provider.Serve(req)
	c.rec.Summary, c.rec.Usage = rep.Summary, rep.Usage
	if rep.Frames != nil {
		return c.stream(w, r, req, rep)
	}
	if c.strike != nil && c.strike.Kind == StreamError && rep.Tokens > 0 {
		c.struck()
		rep = c.s.provider.Failure(req, 500)
	}
	return c.plain(w, r, rep)
}

// failure is the reply of a Status rule.
func (c *call) failure(req *exchange.Request) *exchange.Reply {
	status := c.strike.Status
	if status == 0 {
		status = 500
	}
	rep := c.s.provider.Failure(req, status)
	if d := c.strike.RetryAfter; d != 0 {
		rep.Header.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.or(0).Seconds()))))
	}
	return rep
}

// read takes the whole body, slowly if a rule says so.
func (c *call) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	src := http.MaxBytesReader(w, r.Body, c.s.opts.MaxBody)
	if c.slow == nil {
		return io.ReadAll(src)
	}
	if c.strike == nil {
		c.rec.Fault = SlowRead
	}
	var body bytes.Buffer
	for {
		if err := c.s.opts.Sleep(r.Context(), c.slow.Delay.or(100*time.Millisecond)); err != nil {
			return body.Bytes(), err
		}
		switch _, err := io.CopyN(&body, src, 4<<10); {
		case err == io.EOF:
			return body.Bytes(), nil
		case err != nil:
			return body.Bytes(), err
		}
	}
}

func (c *call) pacer() *pacer {
	p := &pacer{sleep: c.s.opts.Sleep, ttft: c.faults.TTFT.or(50 * time.Millisecond), rnd: c.rnd}
	p.lo, p.hi = c.faults.interval()
	return p
}

func (c *call) writer(w http.ResponseWriter) *writer {
	return &writer{w: w, flow: http.NewResponseController(w), how: c.faults.Chunking, rnd: c.rnd}
}

// plain sends a whole body. A generated one takes the time of its tokens.
func (c *call) plain(w http.ResponseWriter, r *http.Request, rep *exchange.Reply) (broken bool) {
	if rep.Tokens > 0 {
		p := c.pacer()
		if p.first(r.Context()) != nil || p.tokens(r.Context(), rep.Tokens-1) != nil {
			c.rec.End = Aborted
			return true
		}
	}
	head(w, rep)
	w.Header().Set("Content-Length", strconv.Itoa(len(rep.Body)))
	w.WriteHeader(rep.Status)
	c.rec.Status = rep.Status
	if c.strike != nil && c.strike.Kind == Disconnect && rep.Tokens > 0 {
		c.struck()
		_ = c.writer(w).put(rep.Body[:len(rep.Body)/2])
		return true
	}
	// The last byte waits until the record is closed, so that a client that has its answer finds it there.
	all, last := rep.Body[:len(rep.Body)-1], rep.Body[len(rep.Body)-1:]
	var err error
	if c.faults.Chunking == Split {
		err = c.writer(w).split(all)
	} else {
		_, err = w.Write(all)
	}
	if err != nil {
		c.rec.End = Aborted
		return true
	}
	c.rec.Tokens, c.rec.Reasoning = rep.Tokens, rep.Usage.Reasoning
	if c.rec.End == Running {
		c.rec.End = Finished
		if rep.Status >= 400 {
			c.rec.End = Refused
		}
	}
	c.end()
	_, err = w.Write(last)
	return err != nil
}

func head(w http.ResponseWriter, rep *exchange.Reply) {
	for name, values := range rep.Header {
		w.Header()[name] = values
	}
}

// stream sends events at the pace of their tokens.
func (c *call) stream(w http.ResponseWriter, r *http.Request, req *exchange.Request, rep *exchange.Reply) (broken bool) {
	ctx, p, out := r.Context(), c.pacer(), c.writer(w)
	if p.first(ctx) != nil {
		c.rec.End = Aborted
		return true
	}
	head(w, rep)
	w.WriteHeader(rep.Status)
	c.rec.Status = rep.Status
	begun := false
	var held exchange.Frame // tokens of the events that wait for their batch to be full
	sent := func() {
		c.rec.Tokens += held.Tokens
		c.rec.Reasoning += held.Reasoning
		held = exchange.Frame{}
	}
	for f := range rep.Frames {
		if c.strike != nil && c.rec.Events == c.strike.AfterEvents {
			if out.flush() == nil {
				sent()
			}
			return c.cut(out, req)
		}
		wait := f.Tokens
		if f.Tokens > 0 && !begun { // the first token has been waited for
			begun = true
			wait--
		}
		if p.tokens(ctx, wait) != nil || out.event(f.Data) != nil {
			c.rec.End = Aborted
			return true
		}
		c.rec.Events++
		held.Tokens += f.Tokens
		held.Reasoning += f.Reasoning
		if len(out.held) == 0 {
			sent()
		}
	}
	// A client that leaves when everything has been sent, as some do at [DONE], has its answer.
	if out.flush() != nil {
		c.rec.End = Aborted
		return true
	}
	sent()
	c.rec.End = Finished
	return false
}

// cut ends a stream early, with the provider's error event or without a word.
func (c *call) cut(out *writer, req *exchange.Request) (broken bool) {
	c.struck()
	if out.flush() != nil {
		return true
	}
	if c.strike.Kind == Disconnect {
		_ = out.flow.Flush() // the headers at least, when no event was sent
		return true
	}
	return out.put(c.s.provider.StreamFailure(req, c.rec.Events)) != nil
}
