package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"

	"google.golang.org/grpc/credentials"
)

// Files are paths of PEM files. They are looked at before every handshake, so that a certificate that was renewed is used from then on.
type Files struct {
	Cert string // certificate of this side, with intermediates
	Key  string // its private key
	CA   string // certificates that the other side's has to be signed by
}

// pair is a certificate of this side and who is trusted. It is immutable.
type pair struct {
	cert tls.Certificate
	pool *x509.CertPool
}

// certificates reads Files again when they change. While they cannot be used, the last good ones are.
type certificates struct {
	files Files
	log   *slog.Logger

	mu    sync.Mutex
	last  *pair
	seen  []os.FileInfo
	fault string // what was logged last
}

func newCertificates(files Files, log *slog.Logger) (*certificates, error) {
	c := &certificates{files: files, log: log}
	seen, err := c.stat()
	if err != nil {
		return nil, err
	}
	c.last, err = c.read()
	c.seen = seen
	return c, err
}

// get returns what the files hold.
func (c *certificates) get() *pair {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, err := c.stat()
	if err == nil && same(seen, c.seen) {
		return c.last
	}
	var next *pair
	if err == nil {
		next, err = c.read()
	}
	if err != nil {
		if c.fault != err.Error() {
			c.fault = err.Error()
			c.log.Error("the new TLS files cannot be used; the old certificate stays in use", "error", err)
		}
		return c.last
	}
	c.last, c.seen, c.fault = next, seen, ""
	c.log.Info("TLS files were read again", "certificate", c.files.Cert, "expires", next.cert.Leaf.NotAfter)
	return c.last
}

func (c *certificates) stat() ([]os.FileInfo, error) {
	var out []os.FileInfo
	for _, path := range []string{c.files.Cert, c.files.Key, c.files.CA} {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

func same(a, b []os.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}

func (c *certificates) read() (*pair, error) {
	cert, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no certificate with its private key: %w", c.files.Cert, c.files.Key, err)
	}
	ca, err := os.ReadFile(c.files.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no PEM certificate", c.files.CA)
	}
	return &pair{cert: cert, pool: pool}, nil
}

// serverCredentials let in clients whose certificate is signed by the CA and has a name that is allowed.
type serverCredentials struct {
	credentials.TransportCredentials
	log *slog.Logger
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil && !errors.Is(err, io.EOF) { // EOF: somebody looked whether the port is open
		c.log.Warn("a client was refused", "address", raw.RemoteAddr().String(), "error", err)
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.log}
}

func newServerCredentials(c *certificates, allow allowList) *serverCredentials {
	return &serverCredentials{log: c.log, TransportCredentials: credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			p := c.get()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
				Certificates: []tls.Certificate{p.cert}, ClientCAs: p.pool, ClientAuth: tls.RequireAndVerifyClientCert,
				VerifyConnection: func(state tls.ConnectionState) error { return allow.check(state.PeerCertificates[0]) },
				// Tickets would not outlive this configuration, which is made for one handshake.
				SessionTicketsDisabled: true,
			}, nil
		},
	})}
}

// clientCredentials make a new configuration for every handshake, so that changed files count.
type clientCredentials struct {
	credentials.TransportCredentials
	certificates *certificates
	name         string // of the server: DNS name or SPIFFE ID; "" is the host of the address
}

func newClientCredentials(c *certificates, name string) *clientCredentials {
	return &clientCredentials{TransportCredentials: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), certificates: c, name: name}
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p := c.certificates.get()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.pool, Certificates: []tls.Certificate{p.cert}}
	if strings.HasPrefix(c.name, spiffeScheme) {
		// A SPIFFE ID is no host name, which is all that crypto/tls can check: the same chain is built here, and the ID compared.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error { return verifySPIFFE(state, p.pool, c.name) }
	} else if c.name != "" {
		authority = c.name // what the certificate has to be for
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials.
func (c *clientCredentials) Clone() credentials.TransportCredentials {
	return &clientCredentials{TransportCredentials: c.TransportCredentials.Clone(), certificates: c.certificates, name: c.name}
}

func verifySPIFFE(state tls.ConnectionState, pool *x509.CertPool, id string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the control plane shows no certificate")
	}
	leaf, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return err
	}
	for _, uri := range leaf.URIs {
		if uri.String() == id {
			return nil
		}
	}
	return fmt.Errorf("the certificate of the control plane is for %s, not for %s", names(leaf), id)
}

const spiffeScheme = "spiffe://"

// allowList says which names of clients are let in.
type allowList []string

// newAllowList takes exact DNS names, suffixes ("*.team-a.svc" is every name below team-a.svc) and SPIFFE IDs, each of which stands for those below it as well.
func newAllowList(entries []string) (allowList, error) {
	var out allowList
	for _, e := range entries {
		if strings.HasPrefix(e, spiffeScheme) {
			u, err := url.Parse(e)
			if err != nil || u.Host == "" {
				return nil, fmt.Errorf("%q is no SPIFFE ID: write spiffe://TRUST-DOMAIN/PATH", e)
			}
			out = append(out, strings.TrimSuffix(e, "/"))
			continue
		}
		name := strings.TrimPrefix(e, "*.")
		if name == "" || strings.ContainsAny(name, "*/: ") {
			return nil, fmt.Errorf("%q is neither a DNS name, nor *. and the end of one, nor a SPIFFE ID", e)
		}
		out = append(out, strings.ToLower(e))
	}
	return out, nil
}

func (a allowList) check(leaf *x509.Certificate) error {
	if len(a) == 0 {
		return nil
	}
	for _, allowed := range a {
		for _, uri := range leaf.URIs {
			if id := uri.String(); strings.HasPrefix(allowed, spiffeScheme) && (id == allowed || strings.HasPrefix(id, allowed+"/")) {
				return nil
			}
		}
		for _, name := range leaf.DNSNames {
			name = strings.ToLower(name)
			if suffix, ok := strings.CutPrefix(allowed, "*"); name == allowed || ok && strings.HasSuffix(name, suffix) {
				return nil
			}
		}
	}
	return fmt.Errorf("the client's certificate is for %s, which is not among the allowed names", names(leaf))
}

// names are those of a certificate, for messages.
func names(leaf *x509.Certificate) string {
	out := append([]string(nil), leaf.DNSNames...)
	for _, uri := range leaf.URIs {
		out = append(out, uri.String())
	}
	if len(out) == 0 {
		return "nobody"
	}
	return strings.Join(out, ", ")
}
