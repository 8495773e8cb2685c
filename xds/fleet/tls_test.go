package fleet

import (
	"crypto/x509"
	"io"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/source"
)

func TestAllowList(t *testing.T) {
	for _, tc := range []struct {
		allow string
		name  string
		want  bool
	}{
		{"a.b.svc", "a.b.svc", true},
		{"A.b.svc", "a.B.svc", true},
		{"a.b.svc", "x.a.b.svc", false},
		{"*.b.svc", "a.b.svc", true},
		{"*.b.svc", "x.a.b.svc", true},
		{"*.b.svc", "b.svc", false},
		{"*.b.svc", "ab.svc", false},
		{"spiffe://td/ns/a", "spiffe://td/ns/a", true},
		{"spiffe://td/ns/a", "spiffe://td/ns/a/sa/x", true},
		{"spiffe://td/ns/a/", "spiffe://td/ns/a/sa/x", true},
		{"spiffe://td/ns/a", "spiffe://td/ns/ab", false},
		{"spiffe://td", "spiffe://td.evil/ns", false},
		{"spiffe://td", "spiffe://td/ns", true},
		{"td", "spiffe://td/ns", false},
		{"spiffe://td", "td", false},
	} {
		list, err := newAllowList([]string{"elsewhere.svc", tc.allow})
		if err != nil {
			t.Fatalf("%s: %v", tc.allow, err)
		}
		leaf := &x509.Certificate{DNSNames: []string{tc.name}}
		if strings.HasPrefix(tc.name, spiffeScheme) {
			u, err := url.Parse(tc.name)
			if err != nil {
				t.Fatal(err)
			}
			leaf = &x509.Certificate{URIs: []*url.URL{u}}
		}
		if err := list.check(leaf); (err == nil) != tc.want {
			t.Errorf("%s is let in by %s: %v", tc.name, tc.allow, err)
		}
	}
	for _, bad := range []string{"", "*", "*.", "a*.svc", "https://x/y", "spiffe://", "spiffe:///x", "a b"} {
		if _, err := newAllowList([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if (allowList)(nil).check(&x509.Certificate{}) != nil {
		t.Error("an empty list lets nobody in")
	}
	list, err := newAllowList([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := list.check(&x509.Certificate{}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a certificate without names: %v", err)
	}
}

func TestWhoIsLetIn(t *testing.T) {
	const id = "spiffe://cluster.local/ns/weir/sa/control"
	const hungUp = "connection error" // by the server, which knows why; its alert may come too late to be read
	for name, tc := range map[string]struct {
		server func(r *rig, o *ServerOptions)
		client func(r *rig, o *ClientOptions)
		reason string // "" is let in
	}{
		"everybody of the CA": {},
		"an allowed name":     {server: func(_ *rig, o *ServerOptions) { o.Allow = []string{"*.team-a.svc"} }},
		"another name": {
			server: func(_ *rig, o *ServerOptions) { o.Allow = []string{"*.team-b.svc"} },
			reason: hungUp,
		},
		"another CA of the client": {
			client: func(r *rig, o *ClientOptions) {
				o.TLS = newAuthority(r.t).issue(r.t, r.t.TempDir(), "gateway.team-a.svc", time.Hour)
				o.TLS.CA = r.ca.issue(r.t, r.t.TempDir(), "x", time.Hour).CA
			},
			reason: hungUp,
		},
		"another CA of the server": {
			server: func(r *rig, o *ServerOptions) {
				o.TLS = newAuthority(r.t).issue(r.t, r.t.TempDir(), controlName, time.Hour)
				o.TLS.CA = r.ca.issue(r.t, r.t.TempDir(), "x", time.Hour).CA
			},
			reason: "signed by unknown authority",
		},
		"an expired certificate": {
			client: func(r *rig, o *ClientOptions) {
				o.TLS = r.ca.issue(r.t, r.t.TempDir(), "gateway.team-a.svc", -time.Minute)
			},
			reason: hungUp,
		},
		"another server": {
			client: func(_ *rig, o *ClientOptions) { o.ServerName = "control.elsewhere.svc" },
			reason: "not control.elsewhere.svc",
		},
		"the host of the address": {
			client: func(_ *rig, o *ClientOptions) { o.ServerName = "" },
			reason: "not control",
		},
		"a SPIFFE ID": {
			server: func(r *rig, o *ServerOptions) { o.TLS = r.ca.issue(r.t, r.t.TempDir(), id, time.Hour) },
			client: func(_ *rig, o *ClientOptions) { o.ServerName = id },
		},
		"another SPIFFE ID": {
			server: func(r *rig, o *ServerOptions) { o.TLS = r.ca.issue(r.t, r.t.TempDir(), id+"2", time.Hour) },
			client: func(_ *rig, o *ClientOptions) { o.ServerName = id },
			reason: "is for " + id + "2, not for " + id,
		},
		"a SPIFFE ID of another CA": {
			server: func(r *rig, o *ServerOptions) {
				o.TLS = newAuthority(r.t).issue(r.t, r.t.TempDir(), id, time.Hour)
				o.TLS.CA = r.ca.issue(r.t, r.t.TempDir(), "x", time.Hour).CA
			},
			client: func(_ *rig, o *ClientOptions) { o.ServerName = id },
			reason: "signed by unknown authority",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				server := r.control("control:1", func(o *ServerOptions) {
					if tc.server != nil {
						tc.server(r, o)
					}
				})
				defer server.stop()
				server.Set(world(t, []source.Object{backend("a", "x", 1)}, nil), nil)
				client := r.sidecar(func(o *ClientOptions) {
					if tc.client != nil {
						tc.client(r, o)
					}
				}, nil)
				defer client.stop()
				settle()
				h := client.Health()
				_, _, calls := client.got()
				if tc.reason == "" {
					if calls != 1 || !h.Connected {
						t.Errorf("the client was refused: %+v", h)
					}
					return
				}
				// Whether the client notices that while it writes depends on who is quicker.
				told := strings.Contains(h.Reason, tc.reason) || tc.reason == hungUp && strings.Contains(h.Reason, io.ErrClosedPipe.Error())
				if calls != 0 || h.Connected || !told || len(server.Clients()) != 0 {
					t.Errorf("%d calls, health %+v", calls, h)
				}
				if !strings.Contains(r.logs.String(), "a client was refused") {
					t.Errorf("nobody was told:\n%s", r.logs)
				}
			})
		})
	}
}

// Certificates of both sides and the authority itself are replaced; the stream stays, and the next connection uses what is new.
func TestRotation(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		serverDir, clientDir := t.TempDir(), t.TempDir()
		files := r.ca.issue(t, clientDir, "gateway.team-a.svc", 1000*time.Hour)
		server := r.control("control:1", func(o *ServerOptions) { o.TLS = r.ca.issue(t, serverDir, controlName, 1000*time.Hour) })
		server.Set(world(t, []source.Object{backend("a", "x", 1)}, nil), nil)
		client := r.sidecar(func(o *ClientOptions) { o.TLS = files }, nil)
		defer client.stop()
		settle()
		since := client.Health().Since
		r.ca = newAuthority(t)
		r.ca.issue(t, serverDir, controlName, 1000*time.Hour)
		r.ca.issue(t, clientDir, "gateway.team-a.svc", 1000*time.Hour)
		time.Sleep(time.Minute)
		server.Set(world(t, []source.Object{backend("a", "x", 2)}, nil), nil)
		settle()
		if objs, _, _ := client.got(); objs.Backends[0].Generation != 2 || client.Health().Since != since {
			t.Error("the stream did not outlive its certificates")
		}
		// Another client with the new authority is let in by the same server.
		another := r.sidecar(nil, nil)
		defer another.stop()
		settle()
		if !another.Health().Connected {
			t.Errorf("the server has the old authority: %+v", another.Health())
		}
		// A file that is broken leaves what was there in use.
		if err := os.WriteFile(files.Key, []byte("half a k"), 0o600); err != nil {
			t.Fatal(err)
		}
		server.stop()
		server = r.control("control:1", nil)
		server.Set(world(t, []source.Object{backend("a", "x", 3)}, nil), nil)
		time.Sleep(time.Minute)
		settle()
		if objs, _, _ := client.got(); objs.Backends[0].Generation != 3 || !client.Health().Connected {
			t.Errorf("the client has not come back: %+v", client.Health())
		}
		if n := strings.Count(r.logs.String(), "the new TLS files cannot be used"); n != 1 {
			t.Errorf("a broken file was told %d times:\n%s", n, r.logs)
		}
		server.stop()
	})
}

// A connection does not outlive the certificate that it was let in with.
func TestExpiryOnTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		files := r.ca.issue(t, dir, "gateway.team-a.svc", time.Hour)
		server := r.control("control:1", nil)
		defer server.stop()
		server.Set(world(t, []source.Object{backend("a", "x", 1)}, nil), nil)
		client := r.sidecar(func(o *ClientOptions) { o.TLS = files }, nil)
		defer client.stop()
		time.Sleep(2 * time.Hour)
		settle()
		if h := client.Health(); h.Connected || len(server.Clients()) != 0 {
			t.Errorf("health is %+v", h)
		}
		server.Set(world(t, []source.Object{backend("a", "x", 2)}, nil), nil)
		r.ca.issue(t, dir, "gateway.team-a.svc", 1000*time.Hour)
		time.Sleep(time.Minute)
		settle()
		if objs, _, calls := client.got(); calls != 2 || objs.Backends[0].Generation != 2 {
			t.Errorf("%d calls, health %+v", calls, client.Health())
		}
	})
}

func TestOptionsThatCannotBe(t *testing.T) {
	ca := newAuthority(t)
	good := ca.issue(t, t.TempDir(), controlName, time.Hour)
	other := ca.issue(t, t.TempDir(), controlName, time.Hour)
	for name, opts := range map[string]ServerOptions{
		"no files":         {},
		"another key":      {TLS: Files{Cert: good.Cert, Key: other.Key, CA: good.CA}},
		"an authority":     {TLS: Files{Cert: good.Cert, Key: good.Key, CA: good.Key}},
		"a list of nobody": {TLS: good, Allow: []string{"*"}},
	} {
		if _, err := NewServer(opts); err == nil {
			t.Errorf("%s: a server was made", name)
		}
	}
	node := Node{ID: "a"}
	for name, opts := range map[string]ClientOptions{
		"no address":        {TLS: good, Node: node},
		"no port":           {TLS: good, Node: node, Addresses: []string{"control"}},
		"no node":           {TLS: good, Addresses: []string{"control:1"}},
		"no files":          {Node: node, Addresses: []string{"control:1"}},
		"an empty name":     {TLS: good, Node: Node{ID: "a", Scope: Scope{Namespaces: []string{""}}}, Addresses: []string{"control:1"}},
		"a gateway of none": {TLS: good, Node: Node{ID: "a", Scope: Scope{Gateways: gateways("/x")}}, Addresses: []string{"control:1"}},
	} {
		if _, err := NewClient(opts); err == nil {
			t.Errorf("%s: a client was made", name)
		}
	}
}
