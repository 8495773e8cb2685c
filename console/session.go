package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// idleExpiry ends a session that nothing was asked by. A page that is open keeps asking.
	idleExpiry = time.Hour
	// lastExpiry ends every session.
	lastExpiry = 12 * time.Hour
	// maxSessions there may be; the one that was used longest ago makes room. Only who has logged in begins one.
	maxSessions = 10_000
	// maxLoginBody is what a login may send, in bytes.
	maxLoginBody = 8 << 10
)

// Methods of logging in.
const (
	byToken = "token"
	byOIDC  = "oidc"
)

// session is somebody who has logged in.
type session struct {
	key    [sha256.Size]byte
	user   string
	method string
	// token is the hash of the token that it began with: it ends when that changes.
	token [sha256.Size]byte
	last  time.Time // when it ends at the latest

	// Guarded by sessions.mu.
	used  time.Time
	using map[int]context.CancelFunc // of requests that run
	next  int
}

// sessions are those that have not ended. Cookies hold a random ID, of which a hash is kept.
type sessions struct {
	now func() time.Time

	mu sync.Mutex
	m  map[[sha256.Size]byte]*session
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, m: map[[sha256.Size]byte]*session{}}
}

// begin makes a session, and the ID that its cookie holds.
func (x *sessions) begin(s *session) (id string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it never fails: crypto/rand ends the process first
	id = base64.RawURLEncoding.EncodeToString(b[:])
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	s.key, s.used, s.last, s.using = sha256.Sum256([]byte(id)), now, now.Add(lastExpiry), map[int]context.CancelFunc{}
	if len(x.m) >= maxSessions {
		x.makeRoom(now)
	}
	x.m[s.key] = s
	return id
}

// makeRoom ends what is over, and where nothing is, what was used longest ago.
func (x *sessions) makeRoom(now time.Time) {
	var oldest *session
	for _, s := range x.m {
		if s.over(now) {
			x.drop(s)
		} else if oldest == nil || s.used.Before(oldest.used) {
			oldest = s
		}
	}
	if len(x.m) >= maxSessions {
		x.drop(oldest)
	}
}

func (s *session) over(now time.Time) bool {
	return !now.Before(s.last) || len(s.using) == 0 && now.Sub(s.used) >= idleExpiry
}

// drop ends a session and the requests that run by it.
func (x *sessions) drop(s *session) {
	delete(x.m, s.key)
	for _, cancel := range s.using {
		cancel()
	}
}

// get finds the session of an ID; nil where there is none any more.
func (x *sessions) get(id string) *session {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.m[sha256.Sum256([]byte(id))]
	if s == nil {
		return nil
	}
	now := x.now()
	if s.over(now) {
		x.drop(s)
		return nil
	}
	s.used = now
	return s
}

// use notes a request that runs by the session: it is cancelled with it. Call the function that is returned when it has ended.
func (x *sessions) use(s *session, cancel context.CancelFunc) (done func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.now()
	if x.m[s.key] != s {
		cancel() // it has ended meanwhile
		return func() {}
	}
	n := s.next
	s.next++
	s.using[n] = cancel
	last := time.AfterFunc(s.last.Sub(now), cancel)
	return func() {
		last.Stop()
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(s.using, n)
		s.used = x.now()
	}
}

// end ends the session of an ID, if there is one.
func (x *sessions) end(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.m[sha256.Sum256([]byte(id))]; s != nil {
		x.drop(s)
	}
}

// Cookies. A browser takes one with the prefix over HTTPS only, and from no other host.
const (
	sessionCookie = "weir_session"
	hostPrefix    = "__Host-"
)

// encrypted says whether the browser came by HTTPS, to this server or to a proxy before it. A lie costs only who tells it.
func (c *Console) encrypted(r *http.Request) bool {
	return c.opts.TLS || r.TLS != nil || strings.EqualFold(r.Header.Get("x-forwarded-proto"), "https")
}

func (c *Console) cookie(r *http.Request, name, value string, age time.Duration, site http.SameSite) *http.Cookie {
	k := &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age / time.Second), HttpOnly: true, SameSite: site, Secure: c.encrypted(r)}
	if value == "" {
		k.MaxAge = -1
	}
	if k.Secure {
		k.Name = hostPrefix + name
	}
	return k
}

// cookieValue reads a cookie of ours by whichever name it has.
func (c *Console) cookieValue(r *http.Request, name string) string {
	if c.encrypted(r) {
		name = hostPrefix + name
	}
	k, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return k.Value
}

// session is the one that a request came by; nil for none.
func (c *Console) session(r *http.Request) *session {
	id := c.cookieValue(r, sessionCookie)
	if id == "" {
		return nil
	}
	s := c.sessions.get(id)
	if s == nil || s.method != byToken {
		return s
	}
	switch now, err := c.opts.Token.current(); {
	case err != nil:
		return nil // it may be readable again in a moment
	case now != s.token:
		c.sessions.end(id)
		return nil
	}
	return s
}

// enter begins a session and gives the browser its cookie.
func (c *Console) enter(w http.ResponseWriter, r *http.Request, s *session) {
	if old := c.cookieValue(r, sessionCookie); old != "" {
		c.sessions.end(old)
	}
	http.SetCookie(w, c.cookie(r, sessionCookie, c.sessions.begin(s), lastExpiry, http.SameSiteStrictMode))
	c.opts.Log.Info("somebody logged in to the console", "user", s.user, "method", s.method, "address", address(r).String())
}

// sessionBody is the answer of /api/session.
type sessionBody struct {
	// Authenticated says that /api can be asked: by a session, a token, or because no login is needed.
	Authenticated bool `json:"authenticated"`
	// LoginRequired is false where everybody on this machine is let in.
	LoginRequired bool `json:"loginRequired"`
	// Methods that can be logged in by: "token", "oidc".
	Methods []string `json:"methods"`
	// Method and User are those of the session.
	Method string `json:"method,omitempty"`
	User   string `json:"user,omitempty"`
	// ExpiresAt is when the session ends at the latest.
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	// OIDCURL begins a login by OpenID Connect. It is relative to the page.
	OIDCURL string `json:"oidcUrl,omitempty"`
	// Playground says whether /api/playground is served.
	Playground bool `json:"playground"`
}

func (c *Console) body(s *session) sessionBody {
	b := sessionBody{LoginRequired: c.mode == guarded, Authenticated: c.mode == trusting || s != nil, Methods: []string{}, Playground: c.opts.Playground}
	if c.opts.Token != nil {
		b.Methods = append(b.Methods, byToken)
	}
	if c.opts.OIDC != nil {
		b.Methods, b.OIDCURL = append(b.Methods, byOIDC), strings.TrimPrefix(beginPath, "/")
	}
	if s != nil {
		b.Method, b.User, b.ExpiresAt = s.method, s.user, &s.last
	}
	return b
}

// describe says who asks, and how to log in.
func (c *Console) describe(w http.ResponseWriter, r *http.Request) {
	if token, ok := bearer(r); ok && c.mode == guarded {
		if !c.tokenLetsIn(w, r, token) {
			return
		}
		b := c.body(nil)
		b.Authenticated, b.Method, b.User = true, byToken, tokenUser
		writeJSON(w, b)
		return
	}
	writeJSON(w, c.body(c.session(r)))
}

// tokenUser is what is shown of who came by the token: nobody knows more.
const tokenUser = "admin token"

// login begins a session by the token.
func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	if c.mode == trusting {
		writeJSON(w, c.body(nil))
		return
	}
	var in struct {
		Token string `json:"token"`
	}
	if !readJSON(w, r, maxLoginBody, &in) || !c.tokenLetsIn(w, r, in.Token) {
		return
	}
	hash, err := c.opts.Token.current()
	if err != nil {
		refuse(w, r, http.StatusServiceUnavailable, "The token cannot be checked", "The file with the admin token cannot be read; the log says why.")
		return
	}
	s := &session{user: tokenUser, method: byToken, token: hash}
	c.enter(w, r, s)
	writeJSON(w, c.body(s))
}

// logout ends the session and the requests that run by it, if there is one.
func (c *Console) logout(w http.ResponseWriter, r *http.Request) {
	if id := c.cookieValue(r, sessionCookie); id != "" {
		c.sessions.end(id)
	}
	http.SetCookie(w, c.cookie(r, sessionCookie, "", 0, http.SameSiteStrictMode))
	w.WriteHeader(http.StatusNoContent)
}

// readJSON reads the body of a request. The answer is written where it cannot.
func readJSON(w http.ResponseWriter, r *http.Request, most int64, into any) bool {
	kind, _, _ := strings.Cut(r.Header.Get("content-type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		refuse(w, r, http.StatusUnsupportedMediaType, "JSON is expected", "Send the header content-type: application/json and a JSON object.")
		return false
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, most)).Decode(into)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, r, http.StatusRequestEntityTooLarge, "Too large", "The body is larger than this takes.")
	case err != nil:
		// The error may quote what was sent, which may be a secret.
		refuse(w, r, http.StatusBadRequest, "Not JSON", "The body is not the JSON object that is expected here.")
	}
	return err == nil
}
