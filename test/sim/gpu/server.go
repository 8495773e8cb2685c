package gpu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
	"github.com/weir-dev/weir/test/sim/internal/loopback"
)

// maxBody bounds a request, in bytes.
const maxBody = 32 << 20

// maxStreams is the limit of concurrent HTTP/2 streams per connection. A gateway may put all its load on one connection.
const maxStreams = 10000

// Server is one of a pool. It is safe for concurrent use.
type Server struct {
	pool    *Pool
	index   int
	seed    uint64
	driver  *driver
	created float64 // seconds since 1970
	mux     *http.ServeMux
	addr    string           // as bound
	dcgm    string           // likewise; empty: none
	held    []*loopback.Held // of addr and dcgm

	mu     sync.Mutex
	fault  Fault
	closed bool
	lives  []io.Closer // what serves now; empty: it is dead

	requests, served, refused, failed, aborted atomic.Uint64
}

// Stats are counts of chat requests, and the engine's own. A request that has its whole answer is counted already.
type Stats struct {
	Requests uint64 // that arrived
	Served   uint64 // answered in full
	Refused  uint64 // the client's fault
	Failed   uint64 // the server's
	Aborted  uint64 // broken off, by the client or by the server's death

	Engine engine.Stats
}

func newServer(p *Pool, index int) (*Server, error) {
	o := p.opts
	s := &Server{pool: p, index: index, seed: o.Seed + uint64(index)*0x9e3779b97f4a7c15, created: float64(o.Now().UnixMilli()) / 1000}
	var err error
	if s.driver, err = newDriver(o.Profile, o, s.seed); err != nil {
		return nil, fmt.Errorf("gpu: %w", err)
	}
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("POST /v1/chat/completions", s.chat)
	s.mux.HandleFunc("GET /v1/models", s.models)
	s.mux.HandleFunc("GET /health", s.health)
	s.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { s.serveMetrics(w, r, s.vllmPage) })
	s.mux.HandleFunc("GET /dcgm/metrics", s.dcgmMetrics)
	s.mux.HandleFunc("GET /control", p.getControl)
	s.mux.HandleFunc("POST /control", s.postControl)
	return s, nil
}

// Addr is where it listens, host:port. It stays the same after Kill.
func (s *Server) Addr() string { return s.addr }

// URL is the base URL without the path of the API: http://host:port.
func (s *Server) URL() string { return "http://" + s.addr }

// DCGMAddr is where its exporter listens. Empty: nowhere of its own.
func (s *Server) DCGMAddr() string { return s.dcgm }

// Fault is what Set was given last.
func (s *Server) Fault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault.clone()
}

// Set changes how the server misbehaves, from now on.
func (s *Server) Set(f Fault) error {
	if err := f.check(); err != nil {
		return fmt.Errorf("gpu: server %d: %w", s.index, err)
	}
	f = f.clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
	s.driver.do(func(e *engine.Engine) {
		e.SetFault(f.engine())
		s.driver.meter.hideQueue = f.Override.QueueDelay != nil
	})
	return nil
}

// Alive says whether it serves.
func (s *Server) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lives) > 0
}

// Stats are the counts now.
func (s *Server) Stats() Stats {
	return Stats{Requests: s.requests.Load(), Served: s.served.Load(), Refused: s.refused.Load(), Failed: s.failed.Load(),
		Aborted: s.aborted.Load(), Engine: s.driver.stats()}
}

// close kills the server for good.
func (s *Server) close() {
	s.Kill()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.end() // it may have been revived in between
	for _, h := range s.held {
		h.Release()
	}
}

// end ends a life. The lock is held.
func (s *Server) end() {
	for _, l := range s.lives {
		_ = l.Close() // what cannot be closed is gone as well
	}
	s.lives = nil
}

// Kill makes the server die as a machine does: nobody listens any more, its exporter included, every connection breaks, and
// the cache is lost. A dead one stays dead.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	s.driver.do(func(e *engine.Engine) { e.Crash() })
}

// Revive starts the server again at its address, with an empty cache. One that lives goes on.
func (s *Server) Revive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lives) > 0 {
		return nil
	}
	return s.listen()
}

// bind takes the server's addresses, for as long as the pool lives.
func (s *Server) bind(addr string) error {
	ctx := context.Background() // binding loopback does not wait
	h, err := loopback.Hold(ctx, addr)
	if err != nil {
		return fmt.Errorf("gpu: server %d: %w", s.index, err)
	}
	s.held, s.addr = append(s.held, h), h.Addr()
	exporter := s.pool.opts.exporter(s.addr)
	if exporter == "" {
		return nil
	}
	if h, err = loopback.Hold(ctx, exporter); err != nil {
		return fmt.Errorf("gpu: the DCGM exporter of server %d: %w (servers on one host cannot share its port: give each a host of its own, like 127.0.0.2)", s.index, err)
	}
	s.held, s.dcgm = append(s.held, h), h.Addr()
	return nil
}

// listen begins a life. The lock is held.
func (s *Server) listen() error {
	if s.closed {
		return errors.New("gpu: the pool is closed")
	}
	handlers := []http.Handler{s.mux}
	if s.dcgm != "" {
		exporter := http.NewServeMux()
		exporter.HandleFunc("GET /metrics", s.dcgmMetrics)
		exporter.HandleFunc("GET /health", s.health)
		handlers = append(handlers, exporter)
	}
	var listeners []net.Listener
	for i := range handlers {
		l, err := loopback.Listen(context.Background(), s.held[i].Addr())
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // nobody has connected
			}
			return fmt.Errorf("gpu: server %d: %w", s.index, err)
		}
		listeners = append(listeners, l)
	}
	s.driver.do(func(e *engine.Engine) { e.Restart() })
	for i, l := range listeners {
		s.serve(l, handlers[i])
	}
	return nil
}

// serve serves a listener until it is closed.
func (s *Server) serve(l net.Listener, h http.Handler) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams}, ReadHeaderTimeout: 30 * time.Second}
	// The listener first, and by itself: a server that has not come to serve it would leave it open for a while.
	s.lives = append(s.lives, l, srv)
	s.pool.wg.Go(func() { _ = srv.Serve(l) }) // it ends by Close, and says so
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if status := s.Fault().Health; status != 0 {
		w.WriteHeader(status)
	}
}

func (s *Server) dcgmMetrics(w http.ResponseWriter, r *http.Request) {
	s.serveMetrics(w, r, s.dcgmPage)
}

// model is the first of the names that it serves.
func (s *Server) model() string {
	if m := s.pool.opts.Models; len(m) > 0 {
		return m[0]
	}
	return s.pool.opts.Profile.Model
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	names := s.pool.opts.Models
	if len(names) == 0 {
		names = []string{s.model()}
	}
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
		Root    string `json:"root"`
		Max     int    `json:"max_model_len"`
	}
	list := struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{Object: "list"}
	for _, n := range names {
		list.Data = append(list.Data, model{n, "model", int64(s.created), "vllm", s.pool.opts.Profile.Model, s.pool.opts.Profile.Capacity()})
	}
	writeJSON(w, http.StatusOK, list)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the reader may have left; there is nobody to tell
}

// refuse answers with an error as vLLM words it.
func refuse(w http.ResponseWriter, status int, says string) {
	kind := "InternalServerError"
	switch {
	case status == http.StatusNotFound:
		kind = "NotFoundError"
	case status == http.StatusServiceUnavailable:
		kind = "ServiceUnavailableError"
	case status == http.StatusTooManyRequests:
		kind = "RateLimitError"
	case status < 500:
		kind = "BadRequestError"
	}
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	writeJSON(w, status, map[string]detail{"error": {says, kind, nil, status}})
}
