// Package authz serves Envoy's external authorization protocol (ext_authz, gRPC:
// envoy.service.auth.v3.Authorization), so that other Envoys let the same callers in as Weir does.
//
// A check looks at headers only. What it finds out about the caller goes to the upstream in x-weir-* headers, and the
// credential does not. Whatever goes wrong ends in a refusal, never in an error of the call: with
// failure_mode_allow an Envoy lets requests pass whose check failed.
package authz

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

// Authenticator says who calls; *identity.Authenticator is one. Give one that always asks the newest.
type Authenticator interface {
	Authenticate(ctx context.Context, h identity.Headers, source netip.Addr, now time.Time) (*identity.Identity, *canon.Error)
}

// Options of a Server.
type Options struct {
	Authenticator Authenticator
	// Dialects tell in whose shape an error is told.
	Dialects *adapters.Set
	// Admit is asked last, such as for the rate of the caller's key; nil admits everybody.
	Admit func(ctx context.Context, id *identity.Identity, now time.Time) *canon.Error
	// Checked is told the status of each check, 200 where the request was let in; nil is told nothing.
	Checked func(status int, took time.Duration)
	Log     *slog.Logger // nil says nothing
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Server answers checks. It is safe for concurrent use.
type Server struct {
	authv3.UnimplementedAuthorizationServer
	opts Options
}

// New makes a Server.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Checked == nil {
		o.Checked = func(int, time.Duration) {}
	}
	return &Server{opts: o}
}

// Register adds the service to g.
func (s *Server) Register(g grpc.ServiceRegistrar) { authv3.RegisterAuthorizationServer(g, s) }

// The context extensions that a check may carry: what the configuration of the other Envoy demands of callers, by virtual
// host or route.
const (
	// ExtensionScopes lists scopes, between spaces, that the caller must have.
	ExtensionScopes = "scopes"
	// ExtensionModel is a model that the caller must be allowed to use.
	ExtensionModel = "model"
	// ExtensionTrustedHops is the number of proxies before that Envoy which add the address they saw to x-forwarded-for.
	// The Envoy adds its own, which use_remote_address makes it do.
	ExtensionTrustedHops = "trusted_hops"
)

// maxTrustedHops is that of LLMGateway.spec.authentication.
const maxTrustedHops = 16

// Check answers one check. The error is always nil.
func (s *Server) Check(ctx context.Context, m *authv3.CheckRequest) (resp *authv3.CheckResponse, _ error) {
	began := s.opts.Now()
	var r *request
	status := 200
	defer func() {
		if p := recover(); p != nil {
			s.opts.Log.Error("a check made Weir panic", "panic", p, "stack", string(debug.Stack()))
			e := &canon.Error{Kind: canon.ErrInternal, Message: "The request could not be checked; try again."}
			resp, status = denied(s.opts.Dialects, &request{}, e), e.HTTPStatus()
		}
		s.opts.Checked(status, s.opts.Now().Sub(began))
	}()
	r = readRequest(m)
	id, err := s.decide(ctx, r, m.GetAttributes().GetContextExtensions(), began)
	if err != nil {
		status = err.HTTPStatus()
		return denied(s.opts.Dialects, r, err), nil
	}
	return admitted(r, id), nil
}

// decide says who calls, or why the request may not go on.
func (s *Server) decide(ctx context.Context, r *request, ext map[string]string, now time.Time) (*identity.Identity, *canon.Error) {
	hops, err := trustedHops(ext[ExtensionTrustedHops])
	if err != nil {
		s.opts.Log.Error("another Envoy's configuration is wrong, so its requests are refused", "error", err)
		return nil, &canon.Error{Kind: canon.ErrInternal, Message: "The gateway is not set up correctly; tell those who run it."}
	}
	id, cerr := s.opts.Authenticator.Authenticate(ctx, r.credentials, r.client(hops), now)
	if cerr != nil {
		return nil, cerr
	}
	required := strings.Fields(ext[ExtensionScopes])
	if missing, ok := id.HasScopes(required); !ok {
		return nil, identity.InsufficientScope(missing, required)
	}
	if model := ext[ExtensionModel]; model != "" && !id.MayUse(model) {
		return nil, &canon.Error{Kind: canon.ErrPermission, Message: fmt.Sprintf("This credential may not use the model %q.", model)}
	}
	if s.opts.Admit != nil {
		if cerr := s.opts.Admit(ctx, id, now); cerr != nil {
			return nil, cerr
		}
	}
	return id, nil
}

func trustedHops(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxTrustedHops {
		return 0, fmt.Errorf("the context extension %s is %q; give a number from 0 to %d", ExtensionTrustedHops, text, maxTrustedHops)
	}
	return n, nil
}
