package envoy

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseStats(t *testing.T) {
	const body = `{"stats":[
		{"name":"http.gateway.downstream_rq_active","value":3},
		{"name":"http.admin.downstream_rq_active","value":1},
		{"name":"http.other.downstream_rq_active","value":4},
		{"name":"control_plane.identifier","value":"weir"},
		{"name":"big","value":18446744073709551615},
		{"histograms":{"supported_quantiles":[0,25],"computed_quantiles":[{"name":"h","values":[]}]}}]}`
	got, err := parseStats([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{
		"http.gateway.downstream_rq_active": 3, "http.admin.downstream_rq_active": 1,
		"http.other.downstream_rq_active": 4, "big": 18446744073709551615,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if n := sumActive(got); n != 7 {
		t.Errorf("sumActive = %d; the admin interface's own request must not count", n)
	}
	if _, err := parseStats([]byte("<html>")); err == nil {
		t.Error("HTML was taken for statistics")
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add([]byte(`{"stats":[{"name":"a","value":1},{"name":"b","value":"x"},{"histograms":{}}]}`))
	f.Add([]byte(`{"stats":[{"name":"a","value":-1},{"value":1.5},null]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		stats, err := parseStats(body)
		if err != nil && stats != nil {
			t.Error("an error and statistics")
		}
		if _, ok := stats[""]; ok {
			t.Error("a statistic without a name")
		}
	})
}

func TestAdminErrors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	admin := NewAdmin(socket)
	var unreachable *UnreachableError
	if err := admin.Ready(t.Context()); !errors.As(err, &unreachable) || unreachable.Socket != socket {
		t.Errorf("nobody listens: %v", err)
	}

	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]struct {
		status int
		body   string
	}{
		"/ready":       {503, "PRE_INITIALIZING\n"},
		"/stats":       {200, "{"},
		"/server_info": {200, `{"version": "odd"}`},
		"/config_dump": {400, "bad request\nwith details"},
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(answers[r.URL.Path].status)
		w.Write([]byte(answers[r.URL.Path].body))
	}))
	srv.Listener = l
	srv.Start()
	defer srv.Close()

	var notReady *NotReadyError
	if err := admin.Ready(t.Context()); !errors.As(err, &notReady) || notReady.State != "PRE_INITIALIZING" {
		t.Errorf("Ready: %v", err)
	}
	var answer *AdminError
	if _, err := admin.ConfigDump(t.Context(), false); !errors.As(err, &answer) || answer.Status != 400 || answer.Body != "bad request" {
		t.Errorf("ConfigDump: %v", err)
	}
	if _, err := admin.Warming(t.Context()); err == nil || !strings.Contains(err.Error(), "not the JSON expected") {
		t.Errorf("Warming: %v", err)
	}
	if _, err := admin.Version(t.Context()); err == nil || !strings.Contains(err.Error(), `"odd"`) {
		t.Errorf("Version: %v", err)
	}
	answers["/stats"] = struct {
		status int
		body   string
	}{200, `{"stats":[]}`}
	if _, err := admin.Warming(t.Context()); err == nil || !strings.Contains(err.Error(), "has no cluster_manager.warming_clusters") {
		t.Errorf("Warming: %v", err)
	}
}

// TestWarmingAsksForLittle: the answer costs Envoy as much as is asked for.
func TestWarmingAsksForLittle(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var asked url.Values
	answer := `{"stats":[{"name":"cluster_manager.warming_clusters","value":2}]}`
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		_, _ = io.WriteString(w, answer)
	}))
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	if n, err := NewAdmin(socket).Warming(t.Context()); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	if asked.Get("type") != "Gauges" || !asked.Has("usedonly") || asked.Get("format") != "json" ||
		asked.Get("filter") != `^(cluster_manager\.warming_clusters|listener_manager\.total_listeners_warming)$` {
		t.Errorf("asked for %v", asked)
	}
	answer = `{"stats":[{"name":"cluster_manager.warming_clusters","value":2},{"name":"listener_manager.total_listeners_warming","value":1}]}`
	if n, err := NewAdmin(socket).Warming(t.Context()); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}
