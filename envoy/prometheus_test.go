package envoy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// TestPrometheus: what Envoy says is handed on, and why it says nothing.
func TestPrometheus(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	admin := NewAdmin(socket)
	var unreachable *UnreachableError
	if _, err := admin.Prometheus(t.Context()); !errors.As(err, &unreachable) || unreachable.Socket != socket {
		t.Errorf("without an Envoy: %v", err)
	}
	status, asked := http.StatusOK, ""
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.WriteHeader(status)
		io.WriteString(w, "envoy_a 1\nmore") //nolint:errcheck // the test has what it wants
	})}
	go s.Serve(l) //nolint:errcheck // it ends with the test
	defer s.Close()
	body, err := admin.Prometheus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != "envoy_a 1\nmore" || asked != "/stats/prometheus?usedonly" {
		t.Errorf("%q for %s (%v)", text, asked, err)
	}
	status = http.StatusServiceUnavailable
	var ae *AdminError
	if _, err := admin.Prometheus(t.Context()); !errors.As(err, &ae) || ae.Status != status || ae.Body != "envoy_a 1" {
		t.Errorf("an error of Envoy's: %v", err)
	}
}
