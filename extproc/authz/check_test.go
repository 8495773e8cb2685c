package authz

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

const (
	keyApp      = "app-key-0123456789abcdef"
	keyHome     = "home-key-0123456789abcdef"
	keyDisabled = "disabled-key-0123456789"
	keyExotic   = "exotic-key-0123456789abc"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// authenticator knows the keys above.
func authenticator(t testing.TB) *identity.Authenticator {
	t.Helper()
	key := func(name, consumer, key string) identity.Key {
		return identity.Key{Namespace: "default", Name: name, Consumer: consumer, Hash: sha256.Sum256([]byte(key))}
	}
	home := key("home", "app", keyHome)
	home.AllowedCIDRs = []string{"192.0.2.0/24"}
	disabled := key("disabled", "app", keyDisabled)
	disabled.Disabled = true
	a, errs := identity.New(identity.Config{
		Consumers: []identity.Consumer{
			{Namespace: "default", Name: "app", Tenant: "acme", Scopes: []string{"read", "chat"}, AllowedModels: []string{"gpt-4*"},
				Labels: map[string]string{"team": "gold", "example.com/Cost_Center": "42"}},
			{Namespace: "default", Name: "exotic", Labels: map[string]string{"city": "Zürich 100%", "Team": "upper", "team": "lower", "empty": ""}},
		},
		Keys: []identity.Key{key("app", "app", keyApp), home, disabled, key("exotic", "exotic", keyExotic)},
	}, nil)
	for _, err := range errs {
		t.Fatal(err)
	}
	return a
}

func dialects(t testing.TB) *adapters.Set {
	t.Helper()
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// ask is one check of a test.
type ask struct {
	method, path string
	headers      []string // name and value in turn
	raw          bool     // sent line by line, as encode_raw_headers does
	extensions   map[string]string
	source       string
}

func (a ask) request() *authv3.CheckRequest {
	http := &authv3.AttributeContext_HttpRequest{Id: "req-1", Method: a.method, Path: a.path}
	if a.method == "" {
		http.Method = "GET"
	}
	if a.path == "" {
		http.Path = "/"
	}
	if a.raw {
		http.HeaderMap = &corev3.HeaderMap{}
	} else {
		http.Headers = map[string]string{}
	}
	for i := 0; i < len(a.headers); i += 2 {
		name, v := a.headers[i], a.headers[i+1]
		switch {
		case a.raw:
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(v)})
		case http.Headers[name] != "":
			http.Headers[name] += "," + v // as Envoy joins them
		default:
			http.Headers[name] = v
		}
	}
	source := a.source
	if source == "" {
		source = "203.0.113.7"
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: source}}}},
		Request:           &authv3.AttributeContext_Request{Http: http},
		ContextExtensions: a.extensions,
	}}
}

// result is a CheckResponse in short.
type result struct {
	status  int
	headers map[string]string
	removed []string
	body    string
	code    codes.Code
	facts   map[string]any
}

func read(t *testing.T, resp *authv3.CheckResponse) result {
	t.Helper()
	if err := resp.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	r := result{status: 200, headers: map[string]string{}, code: codes.Code(resp.GetStatus().GetCode()), facts: resp.GetDynamicMetadata().AsMap()}
	list := resp.GetOkResponse().GetHeaders()
	if d := resp.GetDeniedResponse(); d != nil {
		r.status, r.body, list = int(d.GetStatus().GetCode()), d.GetBody(), d.GetHeaders()
	}
	if (r.status == 200) != (r.code == codes.OK) {
		t.Errorf("status %d goes with the code %s", r.status, r.code)
	}
	for _, h := range list {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s is added to what is there", h.GetHeader().GetKey())
		}
		r.headers[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	r.removed = resp.GetOkResponse().GetHeadersToRemove()
	for _, name := range r.removed {
		if r.headers[name] != "" {
			t.Errorf("%s is set and removed", name)
		}
	}
	return r
}

func check(t *testing.T, s *Server, a ask) result {
	t.Helper()
	resp, err := s.Check(context.Background(), a.request())
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func newServer(t testing.TB, change func(*Options)) *Server {
	o := Options{Authenticator: authenticator(t), Dialects: dialects(t), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}
	if change != nil {
		change(&o)
	}
	return New(o)
}

func TestAdmitted(t *testing.T) {
	s := newServer(t, nil)
	spoofed := []string{"x-weir-consumer", "root", "x-weir-tenant", "root", "x-weir-label-admin", "yes", "x-weir-rule", "x", "x_weir_tenant", "root", "cookie", "a=b"}
	for name, headers := range map[string][]string{
		"bearer": {"authorization", "Bearer " + keyApp}, "x-api-key": {"x-api-key", keyApp}, "google": {"x-goog-api-key", keyApp}, "azure": {"api-key", keyApp},
	} {
		for _, raw := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, raw %v", name, raw), func(t *testing.T) {
				r := check(t, s, ask{headers: append(slices.Clone(headers), spoofed...), raw: raw})
				want := map[string]string{"x-weir-consumer": "app", "x-weir-tenant": "acme", "x-weir-scopes": "chat read", "x-weir-credential": "key:app",
					"x-weir-label-team": "gold", "x-weir-label-example.com-cost_center": "42"}
				if r.status != 200 || fmt.Sprint(r.headers) != fmt.Sprint(want) {
					t.Errorf("%d %v", r.status, r.headers)
				}
				slices.Sort(r.removed)
				if want := []string{"api-key", "authorization", "x-api-key", "x-goog-api-key", "x-weir-label-admin", "x-weir-rule", "x_weir_tenant"}; !slices.Equal(r.removed, want) {
					t.Errorf("removed %q", r.removed)
				}
			})
		}
	}
}

func TestFacts(t *testing.T) {
	r := check(t, newServer(t, nil), ask{headers: []string{"x-api-key", keyApp}})
	got, err := json.Marshal(r.facts)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"consumer":"app","credential":"key:app","labels":{"example.com/Cost_Center":"42","team":"gold"},"namespace":"default","scopes":["chat","read"],"tenant":"acme"}`
	if string(got) != want {
		t.Errorf("facts %s", got)
	}
}

// TestExoticValues: a header carries what names may hold, and a spoofed header never shows through.
func TestExoticValues(t *testing.T) {
	r := check(t, newServer(t, nil), ask{headers: []string{"x-api-key", keyExotic, "x-weir-scopes", "admin", "x-weir-label-empty", "full"}})
	want := map[string]string{"x-weir-consumer": "exotic", "x-weir-tenant": "default", "x-weir-credential": "key:exotic",
		"x-weir-label-city": "Z%C3%BCrich 100%25", "x-weir-label-team": "upper"}
	if fmt.Sprint(r.headers) != fmt.Sprint(want) {
		t.Errorf("headers %v", r.headers)
	}
	for _, name := range []string{"x-weir-scopes", "x-weir-label-empty"} {
		if !slices.Contains(r.removed, name) {
			t.Errorf("%s is not removed: %q", name, r.removed)
		}
	}
}

func TestDenied(t *testing.T) {
	bearer := func(k string) []string { return []string{"authorization", "Bearer " + k} }
	busy := &canon.Error{Kind: canon.ErrRateLimit, Message: "Slow down.", RetryAfter: 1500 * time.Millisecond}
	down := &canon.Error{Kind: canon.ErrOverloaded, Code: identity.CodeKeysUnavailable, Message: "Later.", RetryAfter: 2 * time.Second}
	for name, c := range map[string]struct {
		ask
		admit     *canon.Error
		status    int
		code      codes.Code
		fact      string
		challenge string // part of www-authenticate; "" is none
		retry     string
		body      string // part of the body
	}{
		"none":     {ask{}, nil, 401, codes.Unauthenticated, "missing_credential", `Bearer realm="weir"`, "", `"type":"authentication_error"`},
		"unknown":  {ask{headers: bearer("never-heard-of-0123456789")}, nil, 401, codes.Unauthenticated, "invalid_api_key", `error="invalid_token"`, "", "The API key is not valid."},
		"disabled": {ask{headers: bearer(keyDisabled)}, nil, 401, codes.Unauthenticated, "invalid_api_key", `error="invalid_token"`, "", "The API key is not valid."},
		"two keys": {ask{headers: append(bearer(keyApp), "x-api-key", keyExotic)}, nil, 401, codes.Unauthenticated, "invalid_credential", `error="invalid_token"`, "", "more than one credential"},
		"one header twice": {ask{headers: append(bearer(keyApp), bearer(keyApp)...), raw: true}, nil, 401, codes.Unauthenticated, "invalid_credential",
			`error="invalid_token"`, "", "more than once"},
		"one header twice, joined": {ask{headers: append(bearer(keyApp), bearer(keyApp)...)}, nil, 401, codes.Unauthenticated, "invalid_credential", `error="invalid_token"`, "", ""},
		"two keys in one, joined":  {ask{headers: []string{"x-api-key", keyApp, "x-api-key", keyApp}}, nil, 401, codes.Unauthenticated, "invalid_api_key", `error="invalid_token"`, "", ""},
		"from elsewhere":           {ask{headers: bearer(keyHome)}, nil, 403, codes.PermissionDenied, "address_not_allowed", "", "", "203.0.113.7"},
		"scope missing": {ask{headers: bearer(keyApp), extensions: map[string]string{"scopes": "chat admin"}}, nil, 403, codes.PermissionDenied, "insufficient_scope",
			`error="insufficient_scope"`, "", `admin`},
		"model":       {ask{headers: bearer(keyApp), extensions: map[string]string{"model": "o3"}}, nil, 403, codes.PermissionDenied, "permission", "", "", `o3`},
		"too fast":    {ask{headers: bearer(keyApp)}, busy, 429, codes.ResourceExhausted, "rate_limit", "", "2", "Slow down."},
		"unavailable": {ask{headers: bearer(keyApp)}, down, 503, codes.Unavailable, "keys_unavailable", "", "2", "Later."},
		"hops of no sense": {ask{headers: bearer(keyApp), extensions: map[string]string{"trusted_hops": "-1"}}, nil, 500, codes.Internal, "internal", "", "",
			"not set up correctly"},

		"anthropic's path":   {ask{method: "POST", path: "/v1/messages?beta=true"}, nil, 401, codes.Unauthenticated, "missing_credential", "Bearer", "", `{"type":"error","error":{"type":"authentication_error"`},
		"anthropic's header": {ask{path: "/v1/models", headers: []string{"anthropic-version", "2023-06-01"}, raw: true}, nil, 401, codes.Unauthenticated, "missing_credential", "Bearer", "", `{"type":"error"`},
		"openai's path":      {ask{method: "POST", path: "/v1/chat/completions"}, nil, 401, codes.Unauthenticated, "missing_credential", "Bearer", "", `{"error":{"message":`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, func(o *Options) {
				o.Admit = func(context.Context, *identity.Identity, time.Time) *canon.Error { return c.admit }
			})
			r := check(t, s, c.ask)
			if r.status != c.status || r.code != c.code || r.facts["error"] != c.fact {
				t.Errorf("status %d, code %s, facts %v", r.status, r.code, r.facts)
			}
			if got := r.headers["www-authenticate"]; !strings.Contains(got, c.challenge) || c.challenge == "" && got != "" {
				t.Errorf("www-authenticate %q", got)
			}
			if r.headers["retry-after"] != c.retry || r.headers["content-type"] != "application/json" {
				t.Errorf("headers %v", r.headers)
			}
			if !strings.Contains(r.body, c.body) || !json.Valid([]byte(r.body)) {
				t.Errorf("body %s", r.body)
			}
			all := r.body + fmt.Sprint(r.headers, r.facts)
			for _, secret := range []string{keyApp, keyHome, keyDisabled, keyExotic, "never-heard-of"} {
				if strings.Contains(all, secret) {
					t.Errorf("the answer shows a credential: %s", all)
				}
			}
		})
	}
}

func TestExtensionsThatAreMet(t *testing.T) {
	r := check(t, newServer(t, nil), ask{headers: []string{"x-api-key", keyApp},
		extensions: map[string]string{"scopes": " read  chat ", "model": "gpt-4o", "other": "not ours"}})
	if r.status != 200 {
		t.Errorf("%d: %s", r.status, r.body)
	}
}

func TestClientAddress(t *testing.T) {
	const peer, home, elsewhere = "203.0.113.7", "192.0.2.9", "198.51.100.1"
	for name, c := range map[string]struct {
		source, hops string
		forwarded    []string
		status       int
	}{
		"the peer":                    {home, "", nil, 200},
		"the peer, elsewhere":         {peer, "", nil, 403},
		"the peer, mapped":            {"::ffff:" + home, "", nil, 200},
		"a claim is not heard":        {peer, "", []string{home}, 403},
		"behind one":                  {peer, "1", []string{home + ", " + peer}, 200},
		"behind one, two lines":       {peer, "1", []string{home, peer}, 200},
		"behind one, who claims":      {peer, "1", []string{home + "," + elsewhere + "," + peer}, 403},
		"behind two":                  {peer, "2", []string{home + "," + elsewhere + "," + peer}, 200},
		"behind two, without":         {peer, "2", []string{home + "," + peer}, 403},
		"the Envoy does not add":      {peer, "1", []string{home + "," + elsewhere}, 403},
		"a peer on loopback":          {"127.0.0.1", "1", []string{home + "," + elsewhere}, 200},
		"on loopback, without":        {"127.0.0.1", "1", []string{home}, 403},
		"no address":                  {peer, "1", []string{"unknown, " + peer}, 403},
		"nothing there":               {home, "1", nil, 200},
		"an address that is not told": {"not an address", "", nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, raw := range []bool{false, true} {
				headers := []string{"x-api-key", keyHome}
				for _, line := range c.forwarded {
					headers = append(headers, "x-forwarded-for", line)
				}
				a := ask{headers: headers, raw: raw, source: c.source, extensions: map[string]string{"trusted_hops": c.hops}}
				if r := check(t, newServer(t, nil), a); r.status != c.status {
					t.Errorf("raw %v: %d: %s", raw, r.status, r.body)
				}
			}
		})
	}
}

type panicking struct{}

func (panicking) Authenticate(context.Context, identity.Headers, netip.Addr, time.Time) (*identity.Identity, *canon.Error) {
	panic("a defect")
}

// TestPanicRefuses: an error of the call would let the request in where the other Envoy fails open.
func TestPanicRefuses(t *testing.T) {
	var log strings.Builder
	var told []int
	s := newServer(t, func(o *Options) {
		o.Authenticator, o.Log = panicking{}, slog.New(slog.NewTextHandler(&log, nil))
		o.Checked = func(status int, _ time.Duration) { told = append(told, status) }
	})
	r := check(t, s, ask{headers: []string{"authorization", "Bearer " + keyApp}})
	if r.status != 500 || !slices.Equal(told, []int{500}) || !strings.Contains(log.String(), "a defect") {
		t.Errorf("%d, told %v, logged %s", r.status, told, log.String())
	}
	if strings.Contains(log.String()+r.body, keyApp) {
		t.Error("the credential is shown")
	}
}

func TestChecked(t *testing.T) {
	var told []string
	clock := now
	s := newServer(t, func(o *Options) {
		o.Now = func() time.Time { clock = clock.Add(time.Millisecond); return clock }
		o.Checked = func(status int, took time.Duration) { told = append(told, fmt.Sprint(status, took)) }
	})
	check(t, s, ask{headers: []string{"x-api-key", keyApp}})
	check(t, s, ask{})
	if want := []string{"200 1ms", "401 1ms"}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
}

// TestEmptyCheck: another filter than the HTTP one, or an Envoy that sends nothing, is refused like a request without credential.
func TestEmptyCheck(t *testing.T) {
	for _, m := range []*authv3.CheckRequest{nil, {}, {Attributes: &authv3.AttributeContext{}}} {
		resp, err := newServer(t, nil).Check(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		if r := read(t, resp); r.status != 401 {
			t.Errorf("%d: %s", r.status, r.body)
		}
	}
}

// FuzzCheck: whatever headers come, a request is let in with the good key alone, and never with what its own headers claim.
func FuzzCheck(f *testing.F) {
	f.Add("/v1/messages", "x-weir-tenant", "root", "1", true)
	f.Add("/%zz?", "authorization", "Bearer "+keyApp, "", false)
	f.Add("", "x-forwarded-for", "192.0.2.1,203.0.113.7", "2", false)
	f.Add("/", "X_Weir_Label_Team", "\x00\xff", "99", true)
	s := newServer(f, nil)
	f.Fuzz(func(t *testing.T, path, name, v, hops string, raw bool) {
		for _, with := range []string{"", keyApp} {
			a := ask{path: path, raw: raw, extensions: map[string]string{"trusted_hops": hops}}
			if with != "" {
				a.headers = append(a.headers, "api-key", with)
			}
			if !(raw && name == "") {
				a.headers = append(a.headers, name, v)
			}
			resp, err := s.Check(context.Background(), a.request())
			if err != nil {
				t.Fatal(err)
			}
			ok := resp.GetOkResponse()
			if ok == nil {
				continue
			}
			if with == "" && !strings.Contains(v, keyApp) && !strings.Contains(v, keyExotic) && !strings.Contains(v, keyHome) {
				t.Fatalf("let in with %q: %q", name, v)
			}
			set := map[string]bool{}
			for _, h := range ok.GetHeaders() {
				set[h.GetHeader().GetKey()] = true
			}
			low := strings.ToLower(name)
			if strings.HasPrefix(strings.ReplaceAll(low, "_", "-"), "x-weir-") && !set[low] && !slices.Contains(ok.GetHeadersToRemove(), low) {
				t.Fatalf("%q goes through", name)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	s := newServer(b, nil)
	m := ask{method: "POST", path: "/v1/chat/completions", headers: []string{"authorization", "Bearer " + keyApp, "user-agent", "x", "accept", "*/*", "content-type", "application/json"}}.request()
	b.ReportAllocs()
	for b.Loop() {
		if resp, _ := s.Check(context.Background(), m); resp.GetOkResponse() == nil {
			b.Fatal("refused")
		}
	}
}
