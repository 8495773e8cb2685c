// Package console is the door of the admin address. It serves the page, which is embedded, and decides who may see it and what is below
// /api: everybody on this machine where the address is a loopback one, and else who has logged in, by a token or by OpenID Connect.
//
// It changes nothing in the gateway. What is not reading is a session's begin and end, and a request of the playground.
package console

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Options are what a Console needs.
type Options struct {
	// Address is where the admin server listens, as its listener says it. It decides whether a login is needed.
	Address net.Addr
	// Name is the host that the address was given by, "" for none: "admin.internal". Requests may name it.
	Name string
	// TLS says that the admin server speaks TLS itself.
	TLS bool
	// Token logs operators in; nil where there is none.
	Token *Token
	// OIDC logs people in; nil where it is not set up.
	OIDC *OIDC
	// Playground is offered by the page; the handler itself is the caller's.
	Playground bool
	Log        *slog.Logger
	Now        func() time.Time
}

// Console is the door. It is safe for concurrent use.
type Console struct {
	opts     Options
	mode     mode
	sessions *sessions
	throttle *throttle
	static   *static
	origins  *http.CrossOriginProtection
}

// mode is who may come in.
type mode uint8

const (
	// trusting lets everybody in who can reach a loopback address.
	trusting mode = iota
	// guarded wants a login.
	guarded
	// shut lets nobody in: everybody could reach the address, and no login is set up.
	shut
)

// New makes a Console.
func New(o Options) (*Console, error) {
	if o.Address == nil || o.Log == nil || o.Now == nil {
		return nil, errors.New("console: Address, Log and Now are required")
	}
	files, err := newStatic(embedded)
	if err != nil {
		return nil, err
	}
	c := &Console{
		opts: o, sessions: newSessions(o.Now), throttle: newThrottle(o.Now), static: files, origins: http.NewCrossOriginProtection(),
	}
	switch {
	case o.Token != nil || o.OIDC != nil:
		c.mode = guarded
	case !loopback(o.Address):
		c.mode = shut
	}
	return c, nil
}

// Shut says whether nobody is let in, for want of a login.
func (c *Console) Shut() bool { return c.mode == shut }

// loopback says whether only this machine can reach an address.
func loopback(a net.Addr) bool {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// open are the paths that probes and scrapers ask, without a login.
var open = []string{"/healthz", "/readyz", "/metrics"}

// Handler is everything that the admin server serves: inner has what is open (/healthz, /readyz, /metrics) and what is below /api, apart
// from /api/session, which is the Console's.
func (c *Console) Handler(inner http.Handler) http.Handler {
	session := http.NewServeMux()
	session.HandleFunc("GET /api/session", c.describe)
	session.HandleFunc("POST /api/session", c.login)
	session.HandleFunc("DELETE /api/session", c.logout)
	session.HandleFunc("GET "+beginPath, c.beginOIDC)
	session.HandleFunc("GET "+CallbackPath, c.endOIDC)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(open, r.URL.Path) {
			w.Header().Set("x-content-type-options", "nosniff")
			inner.ServeHTTP(w, r)
			return
		}
		secure(w.Header())
		if !c.welcome(w, r) {
			return
		}
		switch path := r.URL.Path; {
		case path == "/api/session" || strings.HasPrefix(path, "/api/session/"):
			w.Header().Set("cache-control", "no-store")
			serve(w, r, session)
		case path == "/api" || strings.HasPrefix(path, "/api/"):
			w.Header().Set("cache-control", "no-store")
			c.guard(w, r, inner)
		default:
			c.static.ServeHTTP(w, r)
		}
	})
}

// policy is the page's content security policy: everything comes from the admin address, and nothing is inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

func secure(h http.Header) {
	h.Set("content-security-policy", policy)
	h.Set("x-content-type-options", "nosniff")
	h.Set("x-frame-options", "DENY")
	h.Set("referrer-policy", "no-referrer")
	h.Set("cross-origin-opener-policy", "same-origin")
	h.Set("cross-origin-resource-policy", "same-origin")
	h.Set("permissions-policy", "camera=(), geolocation=(), microphone=()")
}

// noLogin is what to do about a Console that is shut.
const noLogin = "The admin address can be reached from other machines and no login is set up, so the console and /api are shut. " +
	"Set the environment variable WEIR_ADMIN_TOKEN, --admin-token-file, or --admin-oidc-issuer with --admin-oidc-client-id and " +
	"--admin-oidc-redirect-url; or let --admin be a loopback address such as 127.0.0.1:8081. /healthz, /readyz and /metrics are served."

// welcome turns away whom no login would help.
func (c *Console) welcome(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case c.mode == shut:
		refuse(w, r, http.StatusForbidden, "No login is set up", noLogin)
	case c.mode == trusting && !c.knows(r.Host):
		// A page of somebody else's whose name leads here could read everything otherwise.
		refuse(w, r, http.StatusMisdirectedRequest, "Unknown host", "This address answers to localhost only, and was asked under another name. "+
			"Use http://"+c.opts.Address.String()+", or set up a login (WEIR_ADMIN_TOKEN or --admin-token-file) to use other names.")
	default:
		if err := c.origins.Check(r); err != nil {
			refuse(w, r, http.StatusForbidden, "Request from another site", "A page of another site made this request, which changes something: it is refused.")
			return false
		}
		return true
	}
	return false
}

// knows says whether a host is a name of this machine alone, or the one that the address was given by.
func (c *Console) knows(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || host != "" && host == strings.ToLower(c.opts.Name) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
