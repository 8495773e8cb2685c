package console

import (
	"context"
	"encoding/json"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// guard serves who is let in. A request ends with the session that it came by.
func (c *Console) guard(w http.ResponseWriter, r *http.Request, inner http.Handler) {
	if c.mode == trusting {
		serve(w, r, inner)
		return
	}
	if token, ok := bearer(r); ok {
		if !c.tokenLetsIn(w, r, token) {
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go whileGood(ctx, cancel, func() bool { ok, err := c.opts.Token.Is(token); return ok && err == nil })
		serve(w, r.WithContext(ctx), inner)
		return
	}
	s := c.session(r)
	if s == nil {
		w.Header().Set("www-authenticate", `Bearer realm="weir admin"`)
		refuse(w, r, http.StatusUnauthorized, "Login required", "Log in at the console, or send the admin token as \"authorization: Bearer TOKEN\".")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer c.sessions.use(s, cancel)()
	go whileGood(ctx, cancel, func() bool { return c.session(r) != nil })
	serve(w, r.WithContext(ctx), inner)
}

// NothingHere is the error of a path below /api that nobody answers.
const NothingHere = "There is nothing at this address."

// serve lets a mux answer, and says in the form of everything below /api what it has nothing for, instead of in its own. A path that means
// another one (/api/sessions/.) is nothing: a mux sends who asks on to that, and who erases a thing to all of them.
func serve(w http.ResponseWriter, r *http.Request, inner http.Handler) {
	if !exact(r.URL.EscapedPath()) {
		refuse(w, r, http.StatusNotFound, "Not found", NothingHere+" A path below /api holds no empty segment, and no \".\" or \"..\".")
		return
	}
	mux, ok := inner.(*http.ServeMux)
	if !ok {
		inner.ServeHTTP(w, r)
		return
	}
	h, pattern := mux.Handler(r)
	if pattern != "" {
		mux.ServeHTTP(w, r)
		return
	}
	said := nothing{http.Header{}}
	h.ServeHTTP(said, r)
	if allow := said.header.Get("allow"); allow != "" {
		w.Header().Set("allow", allow)
		refuse(w, r, http.StatusMethodNotAllowed, "Method not allowed", "This address takes "+allow+" and not "+r.Method+".")
		return
	}
	refuse(w, r, http.StatusNotFound, "Not found", NothingHere)
}

// exact says whether a path means what it says.
func exact(p string) bool {
	clean := path.Clean(p)
	return p == clean || p == clean+"/"
}

// nothing takes an answer for its headers.
type nothing struct{ header http.Header }

// Header implements http.ResponseWriter.
func (n nothing) Header() http.Header { return n.header }

// Write implements http.ResponseWriter.
func (nothing) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (nothing) WriteHeader(int) {}

// lookEvery is how often a request that goes on is judged again.
const lookEvery = 10 * time.Second

// whileGood ends a request when what let it in is not good any more: a token that was replaced must not keep a stream.
func whileGood(ctx context.Context, end func(), good func() bool) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if !good() {
				end()
				return
			}
		}
	}
}

// tokenLetsIn says whether a token is right; where it is not, the answer is written.
func (c *Console) tokenLetsIn(w http.ResponseWriter, r *http.Request, token string) bool {
	from := address(r)
	if wait := c.throttle.wait(from); wait > 0 {
		w.Header().Set("retry-after", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		refuse(w, r, http.StatusTooManyRequests, "Too many attempts", "Too many attempts to log in have failed from this address. Wait a moment.")
		return false
	}
	if c.opts.Token == nil {
		refuse(w, r, http.StatusUnauthorized, "No token login", "No admin token is set up; log in by OpenID Connect at the console.")
		return false
	}
	ok, err := c.opts.Token.Is(token)
	if err != nil {
		c.opts.Log.Error("the admin token cannot be read", "error", err)
		refuse(w, r, http.StatusServiceUnavailable, "The token cannot be checked", "The file with the admin token cannot be read; the log says why.")
		return false
	}
	if !ok {
		c.throttle.failed(from)
		c.opts.Log.Warn("a login to the console failed: wrong token", "address", from.String())
		w.Header().Set("www-authenticate", `Bearer realm="weir admin", error="invalid_token"`)
		refuse(w, r, http.StatusUnauthorized, "Wrong token", "The admin token is not this one.")
	}
	return ok
}

// bearer is the token of an Authorization header. ok says that there is one, be it empty.
func bearer(r *http.Request) (token string, ok bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "bearer")
}

// address is who calls. Headers that a proxy would add are not asked: anybody can send them.
func address(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(host)
	return a.Unmap().WithZone("")
}

// errorBody is the answer of everything below /api that is refused.
type errorBody struct {
	Error string `json:"error"`
}

var errorPage = template.Must(template.New("error").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}} - Weir</title><meta name="viewport" content="width=device-width"></head>
<body><main><h1>{{.Title}}</h1><p>{{.Text}}</p><p><a href="{{.Root}}">To the console</a></p></main></body></html>
`))

// refuse answers with a sentence: as a page where a browser goes to an address, as JSON else.
func refuse(w http.ResponseWriter, r *http.Request, status int, title, text string) {
	h := w.Header()
	h.Set("cache-control", "no-store")
	if strings.Contains(r.Header.Get("accept"), "text/html") {
		h.Set("content-type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		_ = errorPage.Execute(w, struct{ Title, Text, Root string }{title, text, root(r.URL.Path)}) // the client went away
		return
	}
	h.Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorBody{text})
}

// root leads from a path to the console, below whatever prefix a proxy puts before it.
func root(path string) string {
	if n := strings.Count(path, "/") - 1; n > 0 {
		return strings.Repeat("../", n)
	}
	return "./"
}

func writeJSON(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
