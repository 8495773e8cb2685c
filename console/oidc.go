package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// CallbackPath is where the issuer sends people back to.
const CallbackPath = beginPath + "/callback"

// beginPath is where a login begins.
const beginPath = "/api/session/oidc"

// issuerTimeout is how long the issuer may take for one answer.
const issuerTimeout = 10 * time.Second

// OIDCOptions say whom to log in by OpenID Connect: the authorization code flow with PKCE.
type OIDCOptions struct {
	// Issuer is the URL that discovery begins at.
	Issuer string
	// ClientID and ClientSecret of this gateway at the issuer. Public clients have no secret.
	ClientID, ClientSecret string
	// RedirectURL is the address of the console as people reach it, with CallbackPath.
	RedirectURL string
	// Groups that people must be in one of; everybody whom the issuer logs in where there are none.
	Groups []string
	// GroupsClaim of the ID token holds a person's groups, as a text or a list of texts; "" is "groups".
	GroupsClaim string
	// Client asks the issuer; nil is one with a timeout.
	Client *http.Client
	Now    func() time.Time
}

// OIDC logs people in by OpenID Connect. The issuer is asked when somebody logs in, so that the gateway starts without it.
// It is safe for concurrent use.
type OIDC struct {
	opts   OIDCOptions
	sealer *sealer

	mu       sync.Mutex
	provider *oidc.Provider // nil until the issuer has answered
}

// NewOIDC checks the options. It asks nobody.
func NewOIDC(o OIDCOptions) (*OIDC, error) {
	if o.ClientID == "" || o.RedirectURL == "" {
		return nil, errors.New("OpenID Connect needs --admin-oidc-issuer, --admin-oidc-client-id and --admin-oidc-redirect-url together")
	}
	if err := trusted(o.Issuer); err != nil {
		return nil, fmt.Errorf("--admin-oidc-issuer %q: %w", o.Issuer, err)
	}
	if err := trusted(o.RedirectURL); err != nil {
		return nil, fmt.Errorf("--admin-oidc-redirect-url %q: %w", o.RedirectURL, err)
	}
	if !strings.HasSuffix(o.RedirectURL, CallbackPath) {
		return nil, fmt.Errorf("--admin-oidc-redirect-url %q: it must end with %s, and be known to the issuer", o.RedirectURL, CallbackPath)
	}
	if o.Now == nil {
		return nil, errors.New("console: OIDCOptions.Now is required")
	}
	o.GroupsClaim = cmp.Or(o.GroupsClaim, "groups")
	if o.Client == nil {
		o.Client = &http.Client{Timeout: issuerTimeout}
	}
	return &OIDC{opts: o, sealer: newSealer()}, nil
}

// trusted says whether nobody on the way can read what goes to a URL, or change it.
func trusted(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("it is not a URL like https://issuer.example.com")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("it must begin with https://")
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return errors.New("it must begin with https://, unless it is on this machine")
	}
	return nil
}

// discover asks the issuer where its parts are, once it has answered never again.
func (o *OIDC) discover(ctx context.Context) (*oidc.Provider, error) {
	o.mu.Lock()
	p := o.provider
	o.mu.Unlock()
	if p != nil {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	// The provider keeps the client of this context, and not what ends it, for the keys that it fetches later.
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, o.opts.Client), o.opts.Issuer)
	if err != nil {
		// It may hold a whole page of an address that is no issuer.
		return nil, fmt.Errorf("the issuer %s does not answer as an OpenID Connect issuer does: %s", o.opts.Issuer, plain(err.Error()))
	}
	o.mu.Lock()
	o.provider = p
	o.mu.Unlock()
	return p, nil
}

func (o *OIDC) config(p *oidc.Provider) *oauth2.Config {
	return &oauth2.Config{
		ClientID: o.opts.ClientID, ClientSecret: o.opts.ClientSecret, RedirectURL: o.opts.RedirectURL,
		Endpoint: p.Endpoint(), Scopes: []string{oidc.ScopeOpenID, "profile", "email"},
	}
}

// attempt is a login under way. It travels in a sealed cookie, so that nobody fills the memory with attempts.
type attempt struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Expires  time.Time `json:"e"`
}

const (
	attemptCookie = "weir_login"
	// attemptExpiry is how long somebody may take at the issuer.
	attemptExpiry = 10 * time.Minute
)

// Problems of a login, in the words for who logs in.
var (
	errNoAttempt = errors.New("this login was not begun in this browser, or too long ago; begin again")
	errNotIn     = errors.New("you are logged in at the issuer, and in none of the groups that may see this console")
)

// begin makes an attempt and the URL that the browser goes to.
func (o *OIDC) begin(ctx context.Context) (target, sealed string, err error) {
	p, err := o.discover(ctx)
	if err != nil {
		return "", "", err
	}
	a := attempt{State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier(), Expires: o.opts.Now().Add(attemptExpiry)}
	return o.config(p).AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)), o.sealer.seal(a), nil
}

// end takes what the issuer sent the browser back with, and says who that is.
func (o *OIDC) end(ctx context.Context, q url.Values, sealed string) (user string, err error) {
	var a attempt
	if !o.sealer.open(sealed, &a) || o.opts.Now().After(a.Expires) || q.Get("state") == "" || !same(q.Get("state"), a.State) {
		return "", errNoAttempt
	}
	if iss := q.Get("iss"); iss != "" && iss != o.opts.Issuer { // RFC 9207
		return "", errors.New("the answer is of another issuer than the one that was asked")
	}
	if code := q.Get("error"); code != "" {
		return "", fmt.Errorf("the issuer says: %s", plain(code+" "+q.Get("error_description")))
	}
	p, err := o.discover(ctx)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, o.opts.Client), issuerTimeout)
	defer cancel()
	token, err := o.config(p).Exchange(ctx, q.Get("code"), oauth2.VerifierOption(a.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) { // its text may hold all that the issuer answered
			return "", fmt.Errorf("the issuer does not exchange the code: %s", plain(cmp.Or(refused.ErrorCode+" "+refused.ErrorDescription, "no reason")))
		}
		return "", fmt.Errorf("the issuer does not exchange the code: %w", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return "", errors.New("the issuer sent no ID token; is openid among the scopes that the client may ask for?")
	}
	id, err := p.VerifierContext(ctx, &oidc.Config{ClientID: o.opts.ClientID, Now: o.opts.Now}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("the issuer's ID token is not valid: %w", err)
	}
	if !same(id.Nonce, a.Nonce) {
		return "", errors.New("the issuer's ID token is of another login")
	}
	return o.admit(id)
}

// admit names the person of a token who may come in.
func (o *OIDC) admit(id *oidc.IDToken) (user string, err error) {
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return "", fmt.Errorf("the claims of the issuer's ID token cannot be read: %w", err)
	}
	if len(o.opts.Groups) > 0 && !slices.ContainsFunc(texts(claims[o.opts.GroupsClaim]), func(g string) bool { return slices.Contains(o.opts.Groups, g) }) {
		return "", errNotIn
	}
	text := func(claim string) string { s, _ := claims[claim].(string); return s }
	email := text("email")
	if verified, ok := claims["email_verified"].(bool); ok && !verified {
		email = ""
	}
	return plain(cmp.Or(email, text("preferred_username"), id.Subject)), nil
}

// texts are those of a claim that is one or a list of them.
func texts(claim any) []string {
	switch v := claim.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, x := range v {
			if s, ok := x.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// maxPlain is how much of a text of others is shown, in characters.
const maxPlain = 200

// plain makes a text of others fit to be shown in a line.
func plain(s string) string {
	out := []rune(strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))))
	return string(out[:min(len(out), maxPlain)])
}

// beginOIDC sends the browser to the issuer.
func (c *Console) beginOIDC(w http.ResponseWriter, r *http.Request) {
	if c.opts.OIDC == nil {
		refuse(w, r, http.StatusNotFound, "No OpenID Connect", "No login by OpenID Connect is set up.")
		return
	}
	target, sealed, err := c.opts.OIDC.begin(r.Context())
	if err != nil {
		c.opts.Log.Error("a login to the console by OpenID Connect failed", "error", err)
		refuse(w, r, http.StatusBadGateway, "The issuer cannot be reached", sentence(err)+c.otherWay())
		return
	}
	http.SetCookie(w, c.cookie(r, attemptCookie, sealed, attemptExpiry, http.SameSiteLaxMode))
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// endOIDC begins the session of who comes back from the issuer.
func (c *Console) endOIDC(w http.ResponseWriter, r *http.Request) {
	if c.opts.OIDC == nil {
		refuse(w, r, http.StatusNotFound, "No OpenID Connect", "No login by OpenID Connect is set up.")
		return
	}
	sealed := c.cookieValue(r, attemptCookie)
	http.SetCookie(w, c.cookie(r, attemptCookie, "", 0, http.SameSiteLaxMode)) // one attempt is good for one login
	user, err := c.opts.OIDC.end(r.Context(), r.URL.Query(), sealed)
	if err != nil {
		c.opts.Log.Warn("a login to the console by OpenID Connect failed", "error", err, "address", address(r).String())
		status := http.StatusUnauthorized
		if errors.Is(err, errNotIn) {
			status = http.StatusForbidden
		}
		refuse(w, r, status, "The login failed", sentence(err)+c.otherWay())
		return
	}
	c.enter(w, r, &session{user: user, method: byOIDC})
	w.Header().Set("location", root(CallbackPath))
	w.WriteHeader(http.StatusSeeOther)
}

// otherWay says what works while the issuer does not.
func (c *Console) otherWay() string {
	if c.opts.Token == nil {
		return ""
	}
	return " The admin token logs you in as well."
}

// sentence makes an error one.
func sentence(err error) string {
	s := plain(err.Error())
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
