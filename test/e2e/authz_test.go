package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/authz"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// guarded is an Envoy that is none of Weir's, which asks external authorization before a plain upstream.
type guarded struct {
	upstream *httptest.Server
	// The listeners: by default, with raw headers, over mutual TLS, with TLS but no client certificate, and letting requests
	// pass when the check fails.
	Plain, Raw, Mutual, NoCertificate, FailOpen string

	mu   sync.Mutex
	seen []http.Header
}

// last forgets and gives what the upstream has seen.
func (g *guarded) last() []http.Header {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen
	g.seen = nil
	return seen
}

const otherEnvoy = `
static_resources:
  listeners:
{{range .Listeners}}
  - name: {{.Name}}
    address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {{.Name}}
          use_remote_address: true
          route_config:
            virtual_hosts:
            - name: plain
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
              response_headers_to_add:
              - header: {key: x-seen, value: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:consumer)%%DYNAMIC_METADATA(envoy.filters.http.ext_authz:error)%"}
            - name: scoped
              domains: [scoped.test]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
              typed_per_filter_config:
                envoy.filters.http.ext_authz:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                  check_settings: {context_extensions: {scopes: admin}}
            - name: model
              domains: [model.test]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
              typed_per_filter_config:
                envoy.filters.http.ext_authz:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                  check_settings: {context_extensions: {model: o3}}
            - name: hops
              domains: [hops.test]
              routes: [{match: {prefix: /}, route: {cluster: upstream}}]
              typed_per_filter_config:
                envoy.filters.http.ext_authz:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                  check_settings: {context_extensions: {trusted_hops: "1"}}
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: {{.Cluster}}}, timeout: 10s}
              encode_raw_headers: {{.Raw}}
              failure_mode_allow: {{.Open}}
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
{{end}}
  clusters:
  - name: upstream
    load_assignment: {cluster_name: upstream, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Upstream}}}}}}]}]}
{{range .Clusters}}
  - name: {{.Name}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: {{.Name}}, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}}}]}]}
{{- if .CA}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: authz.test
        common_tls_context:
          validation_context:
            trusted_ca: {inline_string: {{json .CA}}}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: authz.test}}]
{{- if .Certificate}}
          tls_certificates: [{certificate_chain: {inline_string: {{json .Certificate}}}, private_key: {inline_string: {{json .Key}}}}]
{{- end}}{{end}}{{end}}
`

type otherListener struct {
	Name, Cluster string
	Port          int
	Raw, Open     bool
}

type otherCluster struct {
	Name                 string
	Port                 uint16
	CA, Certificate, Key string
}

// startGuarded runs the Envoy. It asks plain and mutual for authorization.
func startGuarded(t *testing.T, plain, mutual *authz.Config, ca, clients *authority) *guarded {
	t.Helper()
	bin, err := envoy.Ensure(context.Background(), envoy.FindOptions{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{}
	g.upstream = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.seen = append(g.seen, r.Header)
		g.mu.Unlock()
		_, _ = io.WriteString(w, "upstream") // the client may be gone
	}))
	t.Cleanup(g.upstream.Close)
	upstream, err := url.Parse(g.upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := clients.client(t, "another-envoy")
	conf := struct {
		Upstream  string
		Listeners []otherListener
		Clusters  []otherCluster
	}{Upstream: upstream.Port(), Clusters: []otherCluster{
		{Name: "authz", Port: plain.Port}, {Name: "mutual", Port: mutual.Port, CA: ca.PEM, Certificate: certificate, Key: key},
		{Name: "certless", Port: mutual.Port, CA: ca.PEM},
	}}
	for _, l := range []struct {
		otherListener
		url *string
	}{
		{otherListener{Name: "plain", Cluster: "authz"}, &g.Plain}, {otherListener{Name: "raw", Cluster: "authz", Raw: true}, &g.Raw},
		{otherListener{Name: "mutual", Cluster: "mutual"}, &g.Mutual}, {otherListener{Name: "certless", Cluster: "certless"}, &g.NoCertificate},
		{otherListener{Name: "open", Cluster: "authz", Open: true}, &g.FailOpen},
	} {
		l.Port = harness.FreePort(t)
		*l.url = fmt.Sprintf("http://127.0.0.1:%d", l.Port)
		conf.Listeners = append(conf.Listeners, l.otherListener)
	}
	var text bytes.Buffer
	quote := func(s string) (string, error) {
		b, err := json.Marshal(s)
		return string(b), err
	}
	if err := template.Must(template.New("").Funcs(template.FuncMap{"json": quote}).Parse(otherEnvoy)).Execute(&text, conf); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(bin.Path, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if t.Failed() {
			t.Logf("the other Envoy said:\n%s", log.String())
		}
	})
	harness.WaitFor(t, "the other Envoy to serve", func() bool {
		select {
		case <-ended:
			t.Fatalf("the other Envoy ended:\n%s", log.String())
		default:
		}
		for _, u := range []string{g.Plain, g.Raw, g.Mutual, g.NoCertificate, g.FailOpen} {
			resp, err := http.Get(u)
			if err != nil {
				return false
			}
			resp.Body.Close()
		}
		return true
	})
	g.last()
	return g
}

// client makes a certificate for the client's side of TLS, and its key, as PEM.
func (a *authority) client(t testing.TB, name string) (certificate, private string) {
	t.Helper()
	key := newKey(t)
	template := certificateTemplate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert := a.sign(t, template, a.cert, key.Public())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const (
	guardKey      = "guard-key-0123456789abcdef"
	guardDisabled = "guard-disabled-0123456789"
	guardHome     = "guard-home-key-0123456789"
	guardAdmin    = "guard-admin-key-012345678"
)

// authorizer is a server of external authorization with those keys.
func authorizer(t *testing.T) *authz.Server {
	t.Helper()
	key := func(name, consumer, key string) identity.Key {
		return identity.Key{Namespace: "default", Name: name, Consumer: consumer, Hash: sha256.Sum256([]byte(key))}
	}
	home, disabled := key("home", "app", guardHome), key("disabled", "app", guardDisabled)
	home.AllowedCIDRs, disabled.Disabled = []string{"192.0.2.0/24"}, true
	auth, errs := identity.New(identity.Config{
		Consumers: []identity.Consumer{
			{Namespace: "default", Name: "app", Tenant: "acme", Scopes: []string{"chat"}, AllowedModels: []string{"gpt-*"}, Labels: map[string]string{"team": "Zürich"}},
			{Namespace: "default", Name: "root", Scopes: []string{"admin"}},
		},
		Keys: []identity.Key{key("app", "app", guardKey), key("root", "root", guardAdmin), home, disabled},
	}, nil)
	for _, err := range errs {
		t.Fatal(err)
	}
	set, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return authz.New(authz.Options{Authenticator: auth, Dialects: set})
}

// TestExternalAuthorization guards an upstream of somebody else's with the same identities, by an Envoy of somebody else's.
func TestExternalAuthorization(t *testing.T) {
	t.Parallel()
	ca, clients := newAuthority(t, "authz CA"), newAuthority(t, "clients CA")
	plain := &authz.Config{Address: "127.0.0.1", Port: uint16(harness.FreePort(t))}
	mutual := &authz.Config{Address: "127.0.0.1", Port: uint16(harness.FreePort(t)), ClientCA: []byte(clients.PEM)}
	renew := func() {
		certificate, key := ca.server(t, "authz.test", newKey(t))
		mutual.Certificate, mutual.PrivateKey = []byte(certificate), []byte(key)
	}
	renew()
	server := authorizer(t)
	one, two := authz.NewManager(authz.ManagerOptions{Server: server}), authz.NewManager(authz.ManagerOptions{Server: server})
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)
	apply := func(m *authz.Manager, c *authz.Config) {
		t.Helper()
		if err := m.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	apply(one, plain)
	apply(two, mutual)
	g := startGuarded(t, plain, mutual, ca, clients)

	ask := func(t *testing.T, base, host string, headers ...string) answer {
		t.Helper()
		req, err := http.NewRequest("GET", base+"/things?q=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1]) // the name as it stands
		}
		return do(t, http.DefaultClient, req)
	}
	spoofed := []string{"X-Weir-Consumer", "root", "X-Weir-Tenant", "root", "X-Weir-Tenant", "other", "X-Weir-Scopes", "admin", "X-Weir-Label-Team", "gold", "x-weir-rule", "x",
		"x_weir_tenant", "root", "X-Api-Key", guardKey}
	for name, base := range map[string]string{"plain": g.Plain, "raw": g.Raw, "mutual": g.Mutual, "open": g.FailOpen} {
		t.Run("let in, "+name, func(t *testing.T) {
			a := ask(t, base, "any.test", append([]string{"Authorization", "Bearer " + guardKey, "Cookie", "a=b"}, spoofed...)...)
			seen := g.last()
			if a.status != 200 || a.body != "upstream" || len(seen) != 1 {
				t.Fatalf("status %d: %s; the upstream saw %d requests", a.status, a.body, len(seen))
			}
			want := http.Header{"X-Weir-Consumer": {"app"}, "X-Weir-Tenant": {"acme"}, "X-Weir-Scopes": {"chat"},
				"X-Weir-Credential": {"key:app"}, "X-Weir-Label-Team": {"Z%C3%BCrich"}, "Cookie": {"a=b"}}
			for name, values := range seen[0] {
				low := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
				if want[name] == nil && (strings.HasPrefix(low, "x-weir-") || slices.Contains([]string{"authorization", "x-api-key", "api-key", "x-goog-api-key"}, low)) {
					t.Errorf("the upstream was shown %s: %q", name, values)
				}
			}
			for name, values := range want {
				if !slices.Equal(seen[0][name], values) {
					t.Errorf("%s: %q, want %q", name, seen[0][name], values)
				}
			}
			if got := a.header.Get("x-seen"); got != "app" {
				t.Errorf("the Envoy's metadata is %q", got)
			}
		})
		for why, c := range map[string]struct {
			host    string
			headers []string
			status  int
			part    string // of the challenge
			seen    string // of the metadata
		}{
			"no key":        {"any.test", nil, 401, `Bearer realm="weir"`, "missing_credential"},
			"unknown key":   {"any.test", []string{"X-Api-Key", "never-heard-of-0123456"}, 401, `error="invalid_token"`, "invalid_api_key"},
			"disabled key":  {"any.test", []string{"X-Api-Key", guardDisabled}, 401, `error="invalid_token"`, "invalid_api_key"},
			"key twice":     {"any.test", []string{"X-Api-Key", guardKey, "X-Api-Key", guardKey}, 401, `error="invalid_token"`, ""},
			"no scope":      {"scoped.test", []string{"X-Api-Key", guardKey, "X-Weir-Scopes", "admin"}, 403, `scope="admin"`, ""},
			"not the model": {"model.test", []string{"X-Api-Key", guardKey}, 403, "", ""},
			"from here":     {"any.test", []string{"X-Api-Key", guardHome, "X-Forwarded-For", "192.0.2.1"}, 403, "", "address_not_allowed"},
		} {
			t.Run(sprint(why, name), func(t *testing.T) {
				a := ask(t, base, c.host, c.headers...)
				checkError(t, "openai", a, c.status)
				if got := a.header.Get("www-authenticate"); !strings.Contains(got, c.part) || c.part == "" && got != "" {
					t.Errorf("www-authenticate %q", got)
				}
				if got := a.header.Get("x-seen"); c.seen != "" && got != c.seen {
					t.Errorf("the Envoy's metadata is %q", got)
				}
				if n := len(g.last()); n != 0 {
					t.Errorf("the upstream saw %d requests", n)
				}
			})
		}
		t.Run("scope, "+name, func(t *testing.T) {
			if a := ask(t, base, "scoped.test", "X-Api-Key", guardAdmin); a.status != 200 {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			if a := ask(t, base, "model.test", "X-Api-Key", guardAdmin); a.status != 200 {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			if a := ask(t, base, "hops.test", "X-Api-Key", guardHome, "X-Forwarded-For", "192.0.2.1"); a.status != 200 {
				t.Errorf("behind a proxy: status %d: %s", a.status, a.body)
			}
			g.last()
		})
	}

	t.Run("without the client's certificate", func(t *testing.T) {
		if a := ask(t, g.NoCertificate, "any.test", "X-Api-Key", guardKey); a.status != 403 || len(g.last()) != 0 {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	t.Run("new certificates under load", func(t *testing.T) {
		stop := make(chan struct{})
		var load sync.WaitGroup
		for range 4 {
			load.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					req, err := http.NewRequest("GET", g.Mutual, nil)
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("X-Api-Key", guardKey)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					resp.Body.Close()
					if resp.StatusCode != 200 {
						t.Errorf("status %d while certificates change", resp.StatusCode)
						return
					}
				}
			})
		}
		for range 5 {
			g.last()
			renew()
			apply(two, mutual)
			harness.WaitFor(t, "requests after the change", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				return len(g.seen) >= 20
			})
		}
		close(stop)
		load.Wait()
		g.last()
	})
	t.Run("nobody answers", func(t *testing.T) {
		apply(one, nil)
		harness.WaitFor(t, "the refusals of an Envoy that fails closed", func() bool { return ask(t, g.Plain, "any.test", "X-Api-Key", guardKey).status == 403 })
		g.last()
		if a := ask(t, g.Plain, "any.test", "X-Api-Key", guardKey); a.status != 403 || len(g.last()) != 0 {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		if a := ask(t, g.FailOpen, "any.test"); a.status != 200 {
			t.Errorf("one that fails open: status %d: %s", a.status, a.body)
		}
		apply(one, plain)
		harness.WaitFor(t, "the answers when it serves again", func() bool { return ask(t, g.Plain, "any.test", "X-Api-Key", guardKey).status == 200 })
	})
	if s := two.State(); s.Err != nil || !s.TLS || !s.ClientCertificates {
		t.Errorf("state %+v", s)
	}
}

// TestServedExternalAuthorization: weir serves it as its configuration says, with the keys that are in force.
func TestServedExternalAuthorization(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "authz CA")
	certificate, key := ca.server(t, "authz.test", newKey(t))
	first, second := harness.FreePort(t), harness.FreePort(t)
	g := harness.Start(t, harness.Options{
		Listener:  fmt.Sprintf("authentication: {external: {port: %d}}", first),
		Documents: []string{harness.APIKey("other", "app", keyNarrow, "")},
		Files:     map[string]string{"authz.crt.txt": certificate, "authz.key.txt": key},
	})
	check := func(port int, creds credentials.TransportCredentials, key string) (*authv3.CheckResponse, error) {
		t.Helper()
		conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
		defer cancel()
		return authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: "GET", Path: "/", Headers: map[string]string{"x-api-key": key}}},
		}})
	}
	letIn := func(resp *authv3.CheckResponse, err error) bool {
		for _, h := range resp.GetOkResponse().GetHeaders() {
			if h.GetHeader().GetKey() == "x-weir-consumer" && h.GetHeader().GetValue() == "app" {
				return err == nil
			}
		}
		return false
	}
	plain := insecure.NewCredentials()
	for name, c := range map[string]struct {
		key string
		in  bool
	}{"known": {g.Key, true}, "another": {keyNarrow, true}, "unknown": {"never-heard-of-0123456", false}} {
		resp, err := check(first, plain, c.key)
		if letIn(resp, err) != c.in || err != nil {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	g.Change(func() {
		g.WriteFile("document-00.yaml", harness.APIKey("other", "app", keyNarrow, "disabled: true"))
	})
	if resp, err := check(first, plain, keyNarrow); letIn(resp, err) || err != nil {
		t.Errorf("a key that was disabled: %v, %v", resp, err)
	}
	listener := func(external string) func() {
		return func() { g.WriteFile("gateway.yaml", harness.Listener("authentication: {"+external+"}")) }
	}
	g.Change(listener(fmt.Sprintf("external: {port: %d, tls: {certificateRef: {file: authz.crt.txt}, privateKeyRef: {file: authz.key.txt}}}", second)))
	if resp, err := check(second, credentials.NewTLS(&tls.Config{RootCAs: ca.trust(), ServerName: "authz.test"}), g.Key); !letIn(resp, err) {
		t.Errorf("at the new port: %v, %v", resp, err)
	}
	if _, err := check(first, plain, g.Key); err == nil {
		t.Error("the old port still answers")
	}
	g.Change(listener("maxFailedLogins: 0"))
	if _, err := check(second, credentials.NewTLS(&tls.Config{RootCAs: ca.trust(), ServerName: "authz.test"}), g.Key); err == nil {
		t.Error("it answers although nobody wants it")
	}
}
