package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/weir-dev/weir/console"
	"github.com/weir-dev/weir/console/api"
)

// adminTimeout is how long a running gateway may take to answer.
const adminTimeout = 10 * time.Second

// adminClient asks a running gateway on its admin address.
type adminClient struct {
	at        string // address or URL
	tokenFile string
	caFile    string
	client    *http.Client
	base      string
	token     string
	patience  time.Duration // 0: adminTimeout
}

func (a *adminClient) bind(f *pflag.FlagSet) {
	f.StringVar(&a.at, "admin", "127.0.0.1:8081", "admin address of the gateway: host:port, or its URL")
	f.StringVar(&a.tokenFile, "admin-token-file", "", "file with the gateway's admin token (or the token itself in $"+adminTokenVariable+")")
	f.StringVar(&a.caFile, "admin-ca-file", "", "certificates (PEM) that the admin address is trusted by, for https:// (default: the system's)")
}

// open reads what the flags name.
func (a *adminClient) open() error {
	a.base = strings.TrimSuffix(a.at, "/")
	if !strings.Contains(a.base, "://") {
		a.base = "http://" + a.base
	}
	u, err := url.Parse(a.base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("--admin %q is neither host:port nor a URL like https://weir.example.com", a.at)
	}
	text, set := os.LookupEnv(adminTokenVariable)
	if a.tokenFile != "" {
		if set {
			return fmt.Errorf("the admin token is given twice: by --admin-token-file and by $%s", adminTokenVariable)
		}
		raw, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return fmt.Errorf("--admin-token-file: %w", err)
		}
		text = string(raw)
	}
	a.token = strings.TrimSpace(text)
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 2}
	if a.caFile != "" {
		pem, err := os.ReadFile(a.caFile)
		if err != nil {
			return fmt.Errorf("--admin-ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--admin-ca-file %s holds no certificate in PEM", a.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	a.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return nil
}

// get reads the answer of a path into out.
func (a *adminClient) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, nil, out)
}

// post sends in, and reads the answer into out.
func (a *adminClient) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return a.do(ctx, http.MethodPost, path, body, out)
}

func (a *adminClient) do(ctx context.Context, method, path string, body []byte, out any) error {
	resp, err := a.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := a.refusal(resp, path); err != nil {
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("the answer of %s to %s cannot be read: %w", a.at, path, err)
	}
	return nil
}

// refusal is what an answer says that is no success; nil where it is one.
func (a *adminClient) refusal(resp *http.Response, path string) error {
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return fmt.Errorf("the gateway at %s wants its admin token: %s (give --admin-token-file or $%s)", a.at, problem(resp), adminTokenVariable)
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		// Weir says what is not there, unless it is the path itself.
		if text := problem(resp); resp.StatusCode == http.StatusNotFound && strings.HasPrefix(resp.Header.Get("content-type"), "application/json") && text != console.NothingHere {
			return errors.New(text)
		}
		path, _, _ = strings.Cut(path, "?")
		return fmt.Errorf("what answers at %s is no weir that knows %s: %s", a.at, path, resp.Status)
	}
	return fmt.Errorf("the gateway at %s answers %s: %s", a.at, resp.Status, problem(resp))
}

// ready says why the gateway does not serve; "" where it does.
func (a *adminClient) ready(ctx context.Context) (string, error) {
	resp, err := a.send(ctx, http.MethodGet, "/readyz", nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return "", nil
	}
	return problem(resp), nil
}

func (a *adminClient) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(a.patience, adminTimeout))
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("--admin %q is not an address: %w", a.at, err)
	}
	if body != nil {
		req.Header.Set("content-type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("authorization", "Bearer "+a.token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		cancel()
		var wrapped *url.Error // it would name the address twice
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("no gateway answers at %s; is it running, with this --admin? (%w)", a.at, err)
	}
	resp.Body = &canceling{resp.Body, cancel}
	return resp, nil
}

// canceling ends the time of a request when its answer has been read.
type canceling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *canceling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// problem is what an answer says is wrong.
func problem(resp *http.Response) string {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what has come is shown
	var e api.Error
	if json.Unmarshal(text, &e) == nil && e.Error != "" {
		return e.Error
	}
	return strings.TrimSpace(string(text))
}
