package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/weir-dev/weir/console"
)

// adminTokenVariable holds the admin token itself. It has no flag: command lines are for all processes to see.
const adminTokenVariable = "WEIR_ADMIN_TOKEN"

// adminOptions are the flags of the admin server: who may see the console and /api.
type adminOptions struct {
	tokenFile       string
	oidcIssuer      string
	oidcClientID    string
	oidcSecretFile  string
	oidcRedirectURL string
	oidcGroups      []string
	oidcGroupsClaim string
	certFile        string
	keyFile         string
	playground      bool
	externalURL     string
}

func (o *adminOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.tokenFile, "admin-token-file", "", "file with the token that logs operators in at the console and /api; watched (or the token itself in $"+adminTokenVariable+")")
	f.StringVar(&o.oidcIssuer, "admin-oidc-issuer", "", "URL of the OpenID Connect issuer that people log in to the console by")
	f.StringVar(&o.oidcClientID, "admin-oidc-client-id", "", "ID of the console at the issuer")
	f.StringVar(&o.oidcSecretFile, "admin-oidc-client-secret-file", "", "file with the console's secret at the issuer; public clients have none")
	f.StringVar(&o.oidcRedirectURL, "admin-oidc-redirect-url", "", "the console's address as people reach it, with "+console.CallbackPath)
	f.StringSliceVar(&o.oidcGroups, "admin-oidc-group", nil, "groups that people must be in one of (default: everybody whom the issuer logs in)")
	f.StringVar(&o.oidcGroupsClaim, "admin-oidc-groups-claim", "groups", "claim of the ID token that holds a person's groups")
	f.StringVar(&o.certFile, "admin-tls-cert-file", "", "certificate chain (PEM) that the admin address is served with; watched (default: plain HTTP)")
	f.StringVar(&o.keyFile, "admin-tls-key-file", "", "private key (PEM) of it; watched")
	f.BoolVar(&o.playground, "playground", true, "let the console send requests through this gateway, with the key that is typed there")
	f.StringVar(&o.externalURL, "external-url", "", "URL that clients reach the gateway by, for the console's client set-up (default: the listener's)")
}

// door makes the console for an address.
func (g *gateway) door(at net.Addr, secure bool) (*console.Console, error) {
	o := &g.opts.adminOptions
	name, _, _ := net.SplitHostPort(g.opts.admin) // it was listened on
	out := console.Options{Address: at, Name: name, TLS: secure, Playground: o.playground, Log: g.log, Now: time.Now}
	var err error
	if out.Token, err = o.token(os.LookupEnv); err != nil {
		return nil, err
	}
	if out.OIDC, err = o.oidc(); err != nil {
		return nil, err
	}
	return console.New(out)
}

// token is nil where none is set.
func (o *adminOptions) token(env func(string) (string, bool)) (*console.Token, error) {
	text, set := env(adminTokenVariable)
	switch {
	case o.tokenFile != "" && set:
		return nil, errors.New("the admin token is given twice: by --admin-token-file and by $" + adminTokenVariable)
	case o.tokenFile != "":
		return console.NewTokenFile(o.tokenFile)
	case set:
		t, err := console.NewToken(text)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", adminTokenVariable, err)
		}
		return t, nil
	}
	return nil, nil
}

// oidc is nil where none is set.
func (o *adminOptions) oidc() (*console.OIDC, error) {
	if o.oidcIssuer == "" {
		if cmp.Or(o.oidcClientID, o.oidcSecretFile, o.oidcRedirectURL) != "" || len(o.oidcGroups) > 0 {
			return nil, errors.New("--admin-oidc-issuer is missing: the other --admin-oidc flags mean nothing without it")
		}
		return nil, nil
	}
	secret := ""
	if o.oidcSecretFile != "" {
		text, err := os.ReadFile(o.oidcSecretFile)
		if err != nil {
			return nil, fmt.Errorf("--admin-oidc-client-secret-file: %w", err)
		}
		if secret = strings.TrimSpace(string(text)); secret == "" {
			return nil, fmt.Errorf("--admin-oidc-client-secret-file %s is empty", o.oidcSecretFile)
		}
	}
	return console.NewOIDC(console.OIDCOptions{
		Issuer: o.oidcIssuer, ClientID: o.oidcClientID, ClientSecret: secret, RedirectURL: o.oidcRedirectURL,
		Groups: o.oidcGroups, GroupsClaim: o.oidcGroupsClaim, Now: time.Now,
	})
}

// tls is nil where the admin address is served in plain HTTP.
func (g *gateway) adminTLS() (*tls.Config, error) {
	o := &g.opts.adminOptions
	if o.certFile == "" && o.keyFile == "" {
		return nil, nil
	}
	if o.certFile == "" || o.keyFile == "" {
		return nil, errors.New("--admin-tls-cert-file and --admin-tls-key-file go together")
	}
	c, err := console.NewCertificate(o.certFile, o.keyFile, g.log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Get, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// adminURL is where the console is.
func (g *gateway) adminURL() string {
	scheme := "http://"
	if g.opts.certFile != "" {
		scheme = "https://"
	}
	at := g.opts.admin
	if host, port, err := net.SplitHostPort(at); err == nil {
		at = net.JoinHostPort(reachable(cmp.Or(host, "0.0.0.0"), ""), port)
	}
	return scheme + at + "/"
}

// checkExternalURL says what is wrong with --external-url; nil where it is not given.
func (o *adminOptions) checkExternalURL() error {
	if o.externalURL == "" {
		return nil
	}
	u, err := url.Parse(o.externalURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("--external-url %q: it is not a URL like https://llm.example.com", o.externalURL)
	}
	return nil
}
