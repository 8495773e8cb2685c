package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/weir-dev/weir/extproc/session"
)

// adminServer serves what operators ask for, to those who may see it. It shows no secret, and changes nothing but what the relay keeps.
func (g *gateway) adminServer() (*http.Server, error) {
	secure, err := g.adminTLS()
	if err != nil {
		return nil, err
	}
	if err := g.opts.checkExternalURL(); err != nil {
		return nil, err
	}
	l, err := listenAdmin(g.opts.admin)
	if err != nil {
		return nil, err
	}
	door, err := g.door(l.Addr(), secure != nil)
	if err != nil {
		l.Close()
		return nil, err
	}
	mux, err := g.adminMux()
	if err != nil {
		l.Close()
		return nil, err
	}
	if door.Shut() {
		g.log.Warn("the console and /api are shut: the admin address can be reached from other machines and no login is set up", "address", g.opts.admin,
			"help", "set "+adminTokenVariable+", --admin-token-file or --admin-oidc-issuer")
	}
	s := newAdminServer(door.Handler(mux), secure, g.log)
	serve := s.Serve
	if secure != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	go serveAdmin(serve, l, g.log)
	return s, nil
}

func listenAdmin(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the admin address %s cannot be listened on: %w", address, err)
	}
	return l, nil
}

// serveAdmin serves until the server is closed.
func serveAdmin(serve func(net.Listener) error, l net.Listener, log *slog.Logger) {
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the admin server ended", "error", err)
	}
}

// alive answers who asks whether the process lives.
func alive(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// What a connection to the admin address may take, whoever made it: for the headers of a request, for all of it, and between two. An
// answer may take longer than a request, as the stream of live data does.
const (
	adminHeaderTimeout = 5 * time.Second
	adminReadTimeout   = time.Minute
	adminIdleTimeout   = 2 * time.Minute
	adminHeaderBytes   = 64 << 10
)

func newAdminServer(h http.Handler, secure *tls.Config, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, TLSConfig: secure, ErrorLog: log.New(serverErrors{logger}, "", 0),
		ReadHeaderTimeout: adminHeaderTimeout, ReadTimeout: adminReadTimeout, IdleTimeout: adminIdleTimeout, MaxHeaderBytes: adminHeaderBytes,
	}
}

// serverErrors takes what the server has to say: what clients do wrong, and now and then a fault of ours.
type serverErrors struct{ log *slog.Logger }

// Write implements io.Writer.
func (s serverErrors) Write(text []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(text, []byte("panic serving")) {
		level = slog.LevelError
	}
	s.log.Log(context.Background(), level, "the admin server: "+string(bytes.TrimSpace(text)))
	return len(text), nil
}

// adminMux has everything that the admin server serves behind its door.
func (g *gateway) adminMux() (*http.ServeMux, error) {
	setup, err := g.clientSetup()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", g.ready)
	mux.Handle("GET /metrics", newMetricsHandler(g.registry, g.envoy.Load, g.log))
	g.console.Register(mux)
	mux.Handle("GET /api/setup", setup)
	mux.HandleFunc("POST /api/explain", g.explain)
	session.NewAPI(g.remembered.sessions, session.Everything).Register(mux, "/api")
	if g.opts.adminOptions.playground {
		mux.Handle("POST /api/playground", g.playground())
	}
	return mux, nil
}

// readyTimeout is how long Envoy has to say that it is ready; a probe must not hang with it.
const readyTimeout = 2 * time.Second

// ready is 200 while requests are served, and 503 with the reason otherwise.
func (g *gateway) ready(w http.ResponseWriter, r *http.Request) {
	if reason := g.notReady(r.Context()); reason != "" {
		http.Error(w, reason, http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// notReady says why requests are not served; "" where they are.
func (g *gateway) notReady(ctx context.Context) string {
	if g.stopping.Load() {
		return "stopping"
	}
	if g.draining.Load() {
		return "draining: Envoy is about to end"
	}
	if reason := g.noEnvoy(); reason != "" {
		return reason
	}
	switch s := g.publisher.State(); {
	case s.Serving == "" && s.Rejected != "":
		return "Envoy refused the configuration: " + s.Reason
	case s.Serving == "":
		return "no configuration is live yet"
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := g.envoy.Load().Ready(ctx); err != nil {
		return err.Error()
	}
	return ""
}
