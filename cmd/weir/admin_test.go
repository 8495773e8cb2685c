package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/bubble"
	"github.com/weir-dev/weir/xds/source"
)

func TestAdminToken(t *testing.T) {
	const good = "a-token-that-is-long-enough"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(good+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file, env string
		set       bool // env is
		have      bool
		says      string
	}{
		"none": {}, "file": {file: file, have: true}, "environment": {env: good, set: true, have: true},
		"both": {file: file, env: good, set: true, says: "given twice"}, "short": {env: "s3cr3t", set: true, says: "WEIR_ADMIN_TOKEN"},
		"empty": {set: true, says: "WEIR_ADMIN_TOKEN"}, "no file": {file: file + "x", says: "no such file"},
	} {
		o := adminOptions{tokenFile: c.file}
		token, err := o.token(func(string) (string, bool) { return c.env, c.set })
		if (token != nil) != c.have || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", name, token, err)
		}
		if err != nil && c.env != "" && strings.Contains(err.Error(), c.env) {
			t.Errorf("%s: the error holds the token: %v", name, err)
		}
	}
}

func TestAdminOptions(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]adminOptions{
		"--admin-oidc-issuer is missing":            {oidcClientID: "weir"},
		"is missing: the other":                     {oidcGroups: []string{"ops"}},
		"--admin-oidc-client-id":                    {oidcIssuer: "https://id.example"},
		"no such file":                              {oidcIssuer: "https://id.example", oidcSecretFile: secret + "x"},
		"--admin-oidc-client-secret-file " + secret: {oidcIssuer: "https://id.example", oidcSecretFile: secret},
	} {
		if _, err := o.oidc(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	for external, good := range map[string]bool{
		"": true, "https://llm.example.com": true, "http://llm.example.com:8080/team/": true,
		"llm.example.com": false, "ftp://x": false, "https://": false, "https://u:p@x": false, "https://x?y=z": false, "https://x#y": false,
	} {
		if err := (&adminOptions{externalURL: external}).checkExternalURL(); (err == nil) != good {
			t.Errorf("--external-url %q: %v", external, err)
		}
	}
	g := &gateway{}
	g.opts.certFile = "cert.pem"
	if _, err := g.adminTLS(); err == nil || !strings.Contains(err.Error(), "go together") {
		t.Errorf("a certificate without a key: %v", err)
	}
	for admin, want := range map[string]string{"127.0.0.1:8081": "https://127.0.0.1:8081/", "0.0.0.0:1": "https://127.0.0.1:1/", ":1": "https://127.0.0.1:1/", "[::]:1": "https://[::1]:1/", "admin.internal:1": "https://admin.internal:1/"} {
		g.opts.admin = admin
		if got := g.adminURL(); got != want {
			t.Errorf("%s: %s, want %s", admin, got, want)
		}
	}
}

func TestListenerURLs(t *testing.T) {
	serving := func(listeners ...v1alpha1.Listener) *v1alpha1.LLMGateway {
		return &v1alpha1.LLMGateway{ObjectMeta: metav1.ObjectMeta{Name: "g"}, Spec: v1alpha1.LLMGatewaySpec{Listeners: listeners}}
	}
	g := &gateway{}
	objs := source.NewObjects()
	objs.Gateways = []*v1alpha1.LLMGateway{
		serving(v1alpha1.Listener{Address: "0.0.0.0", Port: 80}, v1alpha1.Listener{Address: "127.0.0.1", Port: 443, TLS: &v1alpha1.ListenerTLS{}}),
		serving(v1alpha1.Listener{Address: "::", Port: 81}),
	}
	g.objects.Store(objs)
	for asked, want := range map[string][]string{
		"":                      {"http://127.0.0.1:80", "https://127.0.0.1:443", "http://[::1]:81"},
		"localhost:8081":        {"http://127.0.0.1:80", "https://127.0.0.1:443", "http://[::1]:81"},
		"weir.example.com:8081": {"http://weir.example.com:80", "https://127.0.0.1:443", "http://weir.example.com:81"},
		"192.0.2.1:8081":        {"http://192.0.2.1:80", "https://127.0.0.1:443", "http://192.0.2.1:81"},
		"[2001:db8::1]:8081":    {"http://127.0.0.1:80", "https://127.0.0.1:443", "http://[2001:db8::1]:81"},
		"x\"><script>":          {"http://127.0.0.1:80", "https://127.0.0.1:443", "http://[::1]:81"},
	} {
		if got := g.listenerURLs(asked); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", asked, got, want)
		}
	}
	g.opts.listen = ":9000"
	if got := g.listenerURLs("")[0]; got != "http://127.0.0.1:9000" {
		t.Errorf("--listen: %s", got)
	}
}

// TestAdminServer: nobody holds a connection for nothing, a stream goes on for longer than a request may take, and a fault of ours is seen.
func TestAdminServer(t *testing.T) {
	var text bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&text, nil))
	s := newAdminServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/fault":
			panic("index out of range")
		case "/login":
			_, err := io.ReadAll(r.Body)
			fmt.Fprint(w, err != nil)
		default:
			<-r.Context().Done()
		}
	}), nil, logger)
	bubble.Test(t, func(t *testing.T) {
		l := newPipeListener()
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		dial := func(request string) (answer func() string) {
			c := l.dial()
			got := make(chan string, 1)
			go func() {
				b, _ := io.ReadAll(c) // until the server closes it
				got <- string(b)
			}()
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			return func() string {
				synctest.Wait()
				select {
				case text := <-got:
					return "closed: " + text
				default:
					return "open"
				}
			}
		}
		headers := dial("GET / HTTP/1.1\r\n")
		body := dial("POST /login HTTP/1.1\r\nhost: weir\r\ncontent-length: 100\r\n\r\nslow")
		stream := dial("GET /stream HTTP/1.1\r\nhost: weir\r\n\r\n")
		dial("GET /fault HTTP/1.1\r\nhost: weir\r\n\r\n")
		time.Sleep(adminReadTimeout + adminIdleTimeout + time.Second)
		for name, c := range map[string]struct {
			of   func() string
			want string
		}{"headers that do not come": {headers, "closed"}, "a body that does not come": {body, "closed"}, "a stream": {stream, "open"}} {
			if got := c.of(); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: %.200s", name, got)
			}
		}
		s.Close()
		<-served
	})
	if !strings.Contains(text.String(), "level=ERROR") || !strings.Contains(text.String(), "index out of range") {
		t.Errorf("a fault is not in the log: %s", &text)
	}
}

// pipeListener takes connections that need no network, so that a test's own clock is theirs.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
