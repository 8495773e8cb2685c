package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSystemCAs(t *testing.T) {
	none := func(string) string { return "" }
	for _, c := range []struct {
		name   string
		env    string
		exists []string
		want   string
	}{
		{"variable", "/my/ca.pem", []string{"/etc/ssl/certs/ca-certificates.crt"}, "/my/ca.pem"},
		{"Debian", "", []string{"/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"}, "/etc/ssl/certs/ca-certificates.crt"},
		{"Fedora", "", []string{"/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"}, "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"},
		{"macOS", "", []string{"/etc/ssl/cert.pem"}, "/etc/ssl/cert.pem"},
		{"nothing", "", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := none
			if c.env != "" {
				env = func(name string) string {
					if name != "SSL_CERT_FILE" {
						t.Errorf("asks for %s", name)
					}
					return c.env
				}
			}
			got := systemCAs(env, func(path string) bool {
				for _, p := range c.exists {
					if p == path {
						return true
					}
				}
				return false
			})
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestFileExists(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !fileExists(file) || fileExists(dir) || fileExists(filepath.Join(dir, "y")) {
		t.Error("a file is one, a folder and nothing are none")
	}
}
