package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/serve"
)

// adminServer serves what operators ask for. It shows no secret and changes nothing.
func (g *gateway) adminServer() (*http.Server, error) {
	l, err := net.Listen("tcp", g.opts.admin)
	if err != nil {
		return nil, fmt.Errorf("the admin address %s cannot be listened on: %w", g.opts.admin, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", g.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /api/status", g.status)
	mux.HandleFunc("GET /api/limits", g.limits)
	mux.HandleFunc("GET /api/breakers", g.breakers)
	mux.HandleFunc("GET /api/backends", g.backends)
	mux.HandleFunc("GET /api/usage", g.usage)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			g.log.Error("the admin server ended", "error", err)
		}
	}()
	return s, nil
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

// statusBody is the answer of /api/status.
type statusBody struct {
	Version       string                 `json:"version"`
	Configuration configurationBody      `json:"configuration"`
	Problems      []string               `json:"problems"`
	Objects       map[string]int         `json:"objects"`
	KeySets       []identity.SourceState `json:"keySets"`
	SharedState   *sharedBody            `json:"sharedState,omitempty"`
	Ledger        ledgerBody             `json:"ledger"`
	// ExternalAuthorization is left out where it is not served.
	ExternalAuthorization *authzBody `json:"externalAuthorization,omitempty"`
}

type ledgerBody struct {
	Folder string `json:"folder"`
	Open   int    `json:"openRequests"`
	Error  string `json:"error,omitempty"`
}

type authzBody struct {
	Address            string `json:"address,omitempty"`
	TLS                bool   `json:"tls"`
	ClientCertificates bool   `json:"clientCertificates"`
	Error              string `json:"error,omitempty"`
}

type configurationBody struct {
	Serving        string    `json:"serving"`
	Since          time.Time `json:"since"`
	Pending        string    `json:"pending,omitempty"`
	Rejected       string    `json:"rejected,omitempty"`
	Reason         string    `json:"reason,omitempty"`
	EnvoyConnected bool      `json:"envoyConnected"`
	Retained       int       `json:"retained"`
}

func (g *gateway) status(w http.ResponseWriter, _ *http.Request) {
	s := g.publisher.State()
	body := statusBody{
		Version: buildVersion(),
		Configuration: configurationBody{
			Serving: s.Serving, Since: s.Since, Pending: s.Pending, Rejected: s.Rejected, Reason: s.Reason,
			EnvoyConnected: s.Connected, Retained: s.Retained,
		},
		Problems: []string{},
		KeySets:  g.jwks.States(),
	}
	if p := g.problems.Load(); p != nil {
		for _, problem := range *p {
			body.Problems = append(body.Problems, problem.String())
		}
	}
	if o := g.objects.Load(); o != nil {
		body.Objects = map[string]int{
			"LLMGateway": len(o.Gateways), "Backend": len(o.Backends), "Route": len(o.Routes),
			"Consumer": len(o.Consumers), "APIKey": len(o.APIKeys), "JWTIssuer": len(o.JWTIssuers),
			"LimitPolicy": len(o.LimitPolicies), "Budget": len(o.Budgets), "LoadPolicy": len(o.LoadPolicies),
		}
	}
	body.SharedState = g.acct.shared.status()
	body.Ledger.Folder, _ = g.acct.ledger.Slot()
	body.Ledger.Open = g.acct.desk.InFlight()
	if err := g.acct.ledger.Health(); err != nil {
		body.Ledger.Error = err.Error()
	}
	if a := g.authz.State(); a.Address != "" || a.Err != nil {
		body.ExternalAuthorization = &authzBody{Address: a.Address, TLS: a.TLS, ClientCertificates: a.ClientCertificates}
		if a.Err != nil {
			body.ExternalAuthorization.Error = a.Err.Error()
		}
	}
	writeJSON(w, body)
}

// registerState exports what is computed when it is asked for.
func registerState(reg prometheus.Registerer, p *serve.Publisher, ext *extproc.Server) {
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	gauge("weir_config_versions", "Configuration versions that have gone live.", func() float64 { return float64(p.State().Versions) })
	gauge("weir_config_rejects", "Configuration versions that Envoy has refused.", func() float64 { return float64(p.State().Rejects) })
	gauge("weir_config_retained", "Configuration versions whose resources Envoy has.", func() float64 { return float64(p.State().Retained) })
	gauge("weir_envoy_connected", "1 while Envoy is connected to the control plane.", func() float64 {
		if p.State().Connected {
			return 1
		}
		return 0
	})
	gauge("weir_exchanges", "Requests in flight that something is kept for.", func() float64 { n, _ := ext.InFlight(); return float64(n) })
	gauge("weir_exchange_bytes", "Bytes of request bodies kept for attempts.", func() float64 { _, b := ext.InFlight(); return float64(b) })
}
