package console

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/test/bubble"
)

func TestNewToken(t *testing.T) {
	for text, want := range map[string]string{
		"short": "5 characters", "": "0 characters", "two words of some length": "white space", "1234567890123456": "", " " + secret + "\n": "",
	} {
		_, err := NewToken(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// rewrite replaces a file and makes it look newer by so much, whatever the resolution of the file system.
func rewrite(t *testing.T, path, text string, newer time.Duration) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(newer)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestTokenFile: it is replaced while the gateway runs, which ends the sessions of the one before.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if _, err := NewTokenFile(path); err == nil || !strings.Contains(err.Error(), "admin token") {
		t.Errorf("a file that is missing: %v", err)
	}
	rewrite(t, path, secret+"\n", 0)
	r := newRig(t, func(o *Options) {
		var err error
		if o.Token, err = NewTokenFile(path); err != nil {
			t.Fatal(err)
		}
	})
	if a := r.login(); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
	rewrite(t, path, "another-token-altogether", time.Second)
	if a := r.ask("GET", "/api/status", ""); a.status != 401 {
		t.Errorf("a session of the token before: status %d", a.status)
	}
	if a := r.login(); a.status != 401 {
		t.Errorf("the token before: status %d", a.status)
	}
	if a := r.ask("GET", "/api/status", "", "authorization", "Bearer another-token-altogether"); a.status != 200 {
		t.Errorf("the new token: status %d", a.status)
	}
	if a := r.ask("POST", "/api/session", `{"token":"another-token-altogether"}`); a.status != 200 {
		t.Fatalf("status %d", a.status)
	}
	for name, text := range map[string]string{"empty": "", "short": "s3cr3t", "large": strings.Repeat("x", maxTokenFile+1)} {
		rewrite(t, path, text, 2*time.Second)
		a := r.ask("GET", "/api/status", "", "authorization", "Bearer another-token-altogether")
		if a.status != 503 || text != "" && strings.Contains(a.body+r.log.String(), text) {
			t.Errorf("%s: status %d %s", name, a.status, a.body)
		}
		if a := r.ask("GET", "/api/status", ""); a.status != 401 {
			t.Errorf("%s: a session while the token cannot be read: status %d", name, a.status)
		}
		rewrite(t, path, "another-token-altogether", 3*time.Second)
		if a := r.ask("GET", "/api/status", ""); a.status != 200 {
			t.Errorf("%s: the session once it is there again: status %d", name, a.status)
		}
	}
}

// TestNewTokenEndsStreams of the token before, though nothing else is asked by it.
func TestNewTokenEndsStreams(t *testing.T) {
	for _, how := range []string{"session", "header"} {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			rewrite(t, path, secret, 0)
			bubble.Test(t, func(t *testing.T) {
				token, err := NewTokenFile(path)
				if err != nil {
					t.Fatal(err)
				}
				c, err := New(Options{Address: elsewhere, Token: token, Log: slog.New(slog.DiscardHandler), Now: time.Now})
				if err != nil {
					t.Fatal(err)
				}
				ended := false
				h := c.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					<-r.Context().Done()
					ended = true
				}))
				r := httptest.NewRequest("GET", "/api/stream", nil)
				if how == "header" {
					r.Header.Set("authorization", "Bearer "+secret)
				} else {
					w := httptest.NewRecorder()
					login := httptest.NewRequest("POST", "/api/session", strings.NewReader(`{"token":"`+secret+`"}`))
					login.Header.Set("content-type", "application/json")
					h.ServeHTTP(w, login)
					r.AddCookie(w.Result().Cookies()[0])
				}
				ctx, leave := context.WithCancel(r.Context())
				defer leave()
				go h.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
				time.Sleep(10 * lookEvery) // of the bubble's clock
				synctest.Wait()
				if ended {
					t.Fatal("the stream has ended while the token is good")
				}
				rewrite(t, path, "another-token-altogether", -time.Hour)
				time.Sleep(lookEvery)
				synctest.Wait()
				if !ended {
					t.Error("the stream goes on with the token before")
				}
			})
		})
	}
}

func TestThrottleForgetsTheOldest(t *testing.T) {
	c := &clock{t: time.Now()}
	x := newThrottle(c.now)
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range maxThrottled {
		for range maxFailures {
			x.failed(at(i))
		}
		c.add(time.Microsecond)
	}
	x.failed(at(maxThrottled))
	if len(x.free) != maxThrottled || x.wait(at(0)) != 0 || x.wait(at(1)) == 0 {
		t.Errorf("%d addresses are kept; the first waits %s, the second %s", len(x.free), x.wait(at(0)), x.wait(at(1)))
	}
	c.add(time.Hour)
	x.failed(netip.MustParseAddr("192.0.2.1"))
	if len(x.free) != 1 {
		t.Errorf("%d addresses are kept when all are forgiven", len(x.free))
	}
}

// TestThrottleTakesANetworkForOneCaller in IPv6.
func TestThrottleTakesANetworkForOneCaller(t *testing.T) {
	x := newThrottle((&clock{t: time.Now()}).now)
	for range maxFailures {
		x.failed(netip.MustParseAddr("2001:db8::1"))
	}
	if x.wait(netip.MustParseAddr("2001:db8::ffff:1")) == 0 || x.wait(netip.MustParseAddr("2001:db8:0:1::1")) != 0 {
		t.Error("addresses are counted one by one, or all together")
	}
}

// pair writes a certificate and its key, and returns its serial number.
func pair(t *testing.T, dir string, serial int64, newer time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "admin"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), newer)
	rewrite(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), newer)
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	log := &logged{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	if _, err := NewCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), logger); err == nil {
		t.Error("files that are missing are taken")
	}
	pair(t, dir, 1, 0)
	c, err := NewCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), logger)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		got, err := c.Get(nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return parsed.SerialNumber.String()
	}
	if got := serial(); got != "1" {
		t.Errorf("serial %s", got)
	}
	pair(t, dir, 2, time.Second)
	if got := serial(); got != "2" {
		t.Errorf("after a renewal: serial %s", got)
	}
	rewrite(t, filepath.Join(dir, "cert.pem"), "half a certificate", 2*time.Second)
	if got := serial(); got != "2" || !strings.Contains(log.String(), "cannot be renewed") {
		t.Errorf("after a broken renewal: serial %s; %s", got, log)
	}
	for range 10 {
		serial()
	}
	if n := strings.Count(log.String(), "cannot be renewed"); n != 1 {
		t.Errorf("the log says %d times what everybody who connects finds", n)
	}
}
