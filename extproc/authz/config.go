package authz

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
)

// Config says where external authorization is served, and to whom.
type Config struct {
	Address string // IP
	Port    uint16
	// Certificate (with its chain) and PrivateKey are PEM. Plain text without them.
	Certificate, PrivateKey []byte
	// ClientCA holds the authorities whose client certificates are let in, PEM. Empty: every client is. It needs a certificate.
	ClientCA []byte
}

func (c *Config) hostPort() string { return net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port))) }

func (c *Config) equal(d *Config) bool {
	return c.hostPort() == d.hostPort() && slices.Equal(c.Certificate, d.Certificate) &&
		slices.Equal(c.PrivateKey, d.PrivateKey) && slices.Equal(c.ClientCA, d.ClientCA)
}

// TLS makes the server's side of TLS; nil for plain text.
func (c *Config) TLS() (*tls.Config, error) {
	if len(c.Certificate) == 0 && len(c.PrivateKey) == 0 {
		if len(c.ClientCA) > 0 {
			return nil, errors.New("client certificates need tls, which is not set")
		}
		return nil, nil
	}
	pair, err := tls.X509KeyPair(c.Certificate, c.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("the certificate and its private key cannot be used: %w", err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if len(c.ClientCA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.ClientCA) {
			return nil, errors.New("the client authorities hold no certificate; give them as PEM")
		}
		conf.ClientCAs, conf.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return conf, nil
}
