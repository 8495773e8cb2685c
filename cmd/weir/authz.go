package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/identity"
)

// authzServer lets other gateways ask who calls, by the table in use.
func (g *gateway) authzServer() *authz.Server {
	return authz.New(authz.Options{
		Authenticator: tableAuth{g.ext}, Dialects: g.dialects, Log: g.log, Checked: authzMetrics(g.registry),
		Admit: func(ctx context.Context, id *identity.Identity, _ time.Time) *canon.Error {
			return g.ext.AdmitKey(ctx, id)
		},
	})
}

// tableAuth authenticates by the table that is in use now.
type tableAuth struct{ ext *extproc.Server }

func (a tableAuth) Authenticate(ctx context.Context, h identity.Headers, source netip.Addr, now time.Time) (*identity.Identity, *canon.Error) {
	t := a.ext.Table()
	if t == nil {
		return nil, &canon.Error{Kind: canon.ErrOverloaded, RetryAfter: time.Second, Message: "The gateway is starting; try again in a moment."}
	}
	return t.Auth.Authenticate(ctx, h, source, now)
}
