package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Scope says whose sessions who asks the API may see.
type Scope struct {
	// Tenant, "" for all. Where it is set, a request may name no other.
	Tenant string
	// Consumer of the tenant; counts where OneConsumer is set. Then a request may name no other.
	Consumer    string
	OneConsumer bool
}

// API answers for the sessions of a Manager, below a path that ends in /sessions.
type API struct {
	m     *Manager
	scope func(*http.Request) (Scope, bool)
}

// NewAPI makes an API. scope says whose sessions a request may see; false: none.
func NewAPI(m *Manager, scope func(*http.Request) (Scope, bool)) *API { return &API{m, scope} }

// Everything is the scope of who may see all sessions: whoever is let in to the admin address.
func Everything(*http.Request) (Scope, bool) { return Scope{}, true }

// Register adds what it answers, below a prefix such as /api.
func (a *API) Register(mux *http.ServeMux, prefix string) {
	handle := func(method, path string, f func(http.ResponseWriter, *http.Request, Scope)) {
		mux.HandleFunc(method+" "+prefix+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("cache-control", "no-store")
			s, ok := a.scope(r)
			if !ok {
				refuse(w, http.StatusForbidden, "these sessions are not yours to see")
				return
			}
			f(w, r, s)
		})
	}
	handle("GET", "/sessions", a.list)
	handle("DELETE", "/sessions", a.eraseAll)
	handle("GET", "/session-export", a.exportAll)
	handle("GET", "/sessions/{id}", a.show)
	handle("DELETE", "/sessions/{id}", a.erase)
	handle("GET", "/sessions/{id}/export", a.export)
	handle("GET", "/sessions/{id}/slots", a.slots)
	handle("PUT", "/sessions/{id}/slots", a.putSlots)
	handle("PATCH", "/sessions/{id}/slots", a.patchSlots)
	handle("GET", "/sessions/{id}/state", a.state)
	handle("PUT", "/sessions/{id}/state", a.putState)
}

const (
	defaultPage = 100
	maxPage     = 1000
	maxBody     = 1 << 20
)

// filterOf reads whom a request means.
func filterOf(w http.ResponseWriter, r *http.Request, s Scope) (f Filter, ok bool) {
	q := r.URL.Query()
	f = Filter{Tenant: q.Get("tenant"), Consumer: q.Get("consumer"), OneConsumer: q.Has("consumer")}
	if s.Tenant != "" {
		if f.Tenant != "" && f.Tenant != s.Tenant {
			refuse(w, http.StatusForbidden, "the sessions of that tenant are not yours to see")
			return f, false
		}
		f.Tenant = s.Tenant
	}
	if s.OneConsumer {
		if f.OneConsumer && f.Consumer != s.Consumer {
			refuse(w, http.StatusForbidden, "the sessions of that consumer are not yours to see")
			return f, false
		}
		f.Consumer, f.OneConsumer = s.Consumer, true
	}
	if f.OneConsumer && f.Tenant == "" {
		refuse(w, http.StatusBadRequest, "say the tenant of the consumer: tenant=")
		return f, false
	}
	return f, true
}

// address reads which session a request means.
func address(w http.ResponseWriter, r *http.Request, s Scope) (Address, bool) {
	f, ok := filterOf(w, r, s)
	if !ok {
		return Address{}, false
	}
	if f.Tenant == "" {
		refuse(w, http.StatusBadRequest, "say whose session it is: tenant=, and consumer= unless its policy has scope: Tenant")
		return Address{}, false
	}
	return Address{f.Tenant, f.Consumer, r.PathValue("id")}, true
}

func (a *API) list(w http.ResponseWriter, r *http.Request, s Scope) {
	f, ok := filterOf(w, r, s)
	if !ok {
		return
	}
	limit := defaultPage
	if v := r.URL.Query().Get("limit"); v != "" {
		var err error
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxPage {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("limit must be a number from 1 to %d, not %q", maxPage, v))
			return
		}
	}
	lines, next, err := a.m.List(r.Context(), f, r.URL.Query().Get("cursor"), limit)
	if err != nil {
		a.fail(w, err)
		return
	}
	reply(w, struct {
		Sessions []Line `json:"sessions"`
		Next     string `json:"next,omitempty"`
	}{lines, next})
}

func (a *API) eraseAll(w http.ResponseWriter, r *http.Request, s Scope) {
	f, ok := filterOf(w, r, s)
	if !ok {
		return
	}
	if f.Tenant == "" {
		refuse(w, http.StatusBadRequest, "say whose sessions to erase: tenant=, and consumer= for those of one consumer")
		return
	}
	n, err := a.m.EraseAll(r.Context(), f)
	if err != nil {
		a.fail(w, fmt.Errorf("%d sessions were erased, and then: %w", n, err))
		return
	}
	reply(w, erased{n})
}

type erased struct {
	Erased int `json:"erased"`
}

func (a *API) exportAll(w http.ResponseWriter, r *http.Request, s Scope) {
	f, ok := filterOf(w, r, s)
	if !ok {
		return
	}
	if f.Tenant == "" {
		refuse(w, http.StatusBadRequest, "say whose sessions to export: tenant=, and consumer= for those of one consumer")
		return
	}
	began := false
	err := a.m.Export(r.Context(), f, func(text []byte) error {
		if !began {
			w.Header().Set("content-type", "application/x-ndjson")
			began = true
		}
		_, err := w.Write(append(text, '\n'))
		return err
	})
	switch {
	case err != nil && began:
		panic(http.ErrAbortHandler) // half an export must not look like a whole one
	case err != nil:
		a.fail(w, err)
	case !began:
		w.Header().Set("content-type", "application/x-ndjson")
	}
}

// find reads the session that a request means; false where the answer is written.
func (a *API) find(w http.ResponseWriter, r *http.Request, s Scope) (*Session, bool) {
	at, ok := address(w, r, s)
	if !ok {
		return nil, false
	}
	found, err := a.m.Find(r.Context(), at)
	if err != nil {
		a.fail(w, err)
		return nil, false
	}
	if found == nil {
		notFound(w)
		return nil, false
	}
	w.Header().Set("etag", etag(found))
	return found, true
}

func etag(s *Session) string { return strconv.Quote(strconv.FormatUint(s.Revision, 10)) }

func (a *API) show(w http.ResponseWriter, r *http.Request, s Scope) {
	if found, ok := a.find(w, r, s); ok {
		reply(w, viewOf(found))
	}
}

func (a *API) export(w http.ResponseWriter, r *http.Request, s Scope) {
	found, ok := a.find(w, r, s)
	if !ok {
		return
	}
	text, err := export(found)
	if err != nil {
		a.fail(w, err)
		return
	}
	w.Header().Set("content-type", "application/json")
	_, _ = w.Write(text) // the client went away
}

func (a *API) erase(w http.ResponseWriter, r *http.Request, s Scope) {
	at, ok := address(w, r, s)
	if !ok {
		return
	}
	was, err := a.m.Erase(r.Context(), at)
	switch {
	case err != nil:
		a.fail(w, err)
	case !was:
		notFound(w)
	default:
		reply(w, erased{1})
	}
}

func (a *API) slots(w http.ResponseWriter, r *http.Request, s Scope) {
	if found, ok := a.find(w, r, s); ok {
		reply(w, viewOf(found).Slots)
	}
}

func (a *API) state(w http.ResponseWriter, r *http.Request, s Scope) {
	if found, ok := a.find(w, r, s); ok {
		v := viewOf(found)
		reply(w, standing{v.State, v.Intent, v.Entered, v.Events})
	}
}

type standing struct {
	State   string     `json:"state"`
	Intent  string     `json:"intent,omitempty"`
	Entered *time.Time `json:"entered,omitempty"`
	Events  []Event    `json:"events"`
}

var slotName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// errInput is a fault of who asks.
type errInput struct{ error }

// putSlots replaces all slots; patchSlots sets those that are named, and removes those that are null.
func (a *API) putSlots(w http.ResponseWriter, r *http.Request, s Scope) { a.setSlots(w, r, s, true) }

func (a *API) patchSlots(w http.ResponseWriter, r *http.Request, s Scope) {
	a.setSlots(w, r, s, false)
}

func (a *API) setSlots(w http.ResponseWriter, r *http.Request, s Scope, all bool) {
	var values map[string]json.RawMessage
	const what = "an object of slots and their values"
	if !read(w, r, &values, what) {
		return
	}
	if values == nil { // null
		refuse(w, http.StatusBadRequest, "the body must be "+what)
		return
	}
	for name := range values {
		if !slotName.MatchString(name) {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("%q is no name of a slot: use letters, digits and _, at most 64, not beginning with a digit", name))
			return
		}
	}
	a.edit(w, r, s, func(s *Session, _ *Policy, _ func(Event)) error {
		if all {
			s.Slots = nil
		}
		for name, v := range values {
			if !s.setSlot(name, Slot{Value: v, Source: FromAPI, At: a.m.now()}) {
				return errInput{fmt.Errorf("there is no room for the slot %s: a session has at most %d slots of %d bytes", name, maxSlots, maxSlotBytes)}
			}
		}
		return nil
	})
}

// apiEvent is the event of a state that was set through the API.
const apiEvent = "api"

func (a *API) putState(w http.ResponseWriter, r *http.Request, s Scope) {
	var body *struct {
		State string `json:"state"`
	}
	const what = `{"state": NAME}`
	if !read(w, r, &body, what) {
		return
	}
	if body == nil { // null
		refuse(w, http.StatusBadRequest, "the body must be "+what)
		return
	}
	a.edit(w, r, s, func(s *Session, p *Policy, tell func(Event)) error {
		if p.Machine == nil {
			return errInput{fmt.Errorf("the SessionPolicy %s has no stateMachine", p.ID)}
		}
		if p.Machine.States[body.State] == nil {
			return errInput{fmt.Errorf("the state machine of the SessionPolicy %s has no state %q", p.ID, body.State)}
		}
		p.Machine.enter(s, apiEvent, body.State, a.m.now(), tell)
		return nil
	})
}

// edit changes the session that a request means. If-Match names the revision that must be there.
func (a *API) edit(w http.ResponseWriter, r *http.Request, s Scope, do func(*Session, *Policy, func(Event)) error) {
	at, ok := address(w, r, s)
	if !ok {
		return
	}
	var revision uint64
	if v := r.Header.Get("if-match"); v != "" && v != "*" {
		var err error
		if revision, err = strconv.ParseUint(strings.Trim(v, `"`), 10, 64); err != nil || revision == 0 {
			refuse(w, http.StatusBadRequest, "if-match must be the etag of an answer")
			return
		}
	}
	changed, err := a.m.Edit(r.Context(), at, revision, do)
	if err != nil {
		a.fail(w, err)
		return
	}
	if changed == nil {
		notFound(w)
		return
	}
	w.Header().Set("etag", etag(changed))
	reply(w, viewOf(changed))
}

// read reads a JSON body; false where the answer is written.
func read(w http.ResponseWriter, r *http.Request, into any, what string) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, "the body must be "+what)
		return false
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "the body must be "+what+", and nothing else")
		return false
	}
	return true
}

// fail answers with an error.
func (a *API) fail(w http.ResponseWriter, err error) {
	var input errInput
	switch {
	case errors.As(err, &input):
		refuse(w, http.StatusUnprocessableEntity, input.Error())
	case errors.Is(err, errBadCursor):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, errNoPolicy):
		refuse(w, http.StatusConflict, err.Error())
	case errors.Is(err, errRevision):
		refuse(w, http.StatusPreconditionFailed, err.Error())
	case errors.Is(err, ErrConflict):
		refuse(w, http.StatusConflict, err.Error())
	case errors.Is(err, errUnreadable):
		a.m.failed("api", err)
		refuse(w, http.StatusConflict, "the session is there and cannot be read; the log says why. It can be erased.")
	default:
		a.m.failed("api", err)
		w.Header().Set("retry-after", "1")
		refuse(w, http.StatusServiceUnavailable, "sessions cannot be reached now; the log says why")
	}
}

func notFound(w http.ResponseWriter) {
	refuse(w, http.StatusNotFound, "there is no such session: it was never used, has expired, was erased, or belongs to another consumer")
}

func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message}) // the client went away
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("content-type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	_ = e.Encode(body) // the client went away
}
