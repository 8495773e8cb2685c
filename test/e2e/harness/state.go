package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-dev/weir/usage/ledger"
)

// Status is what /api/status answers.
type Status struct {
	Version       string         `json:"version"`
	Configuration Configuration  `json:"configuration"`
	Problems      []string       `json:"problems"`
	Objects       map[string]int `json:"objects"`
	KeySets       []KeySet       `json:"keySets"`
}

// Configuration is the part about versions.
type Configuration struct {
	Serving        string    `json:"serving"`
	Since          time.Time `json:"since"`
	Pending        string    `json:"pending"`
	Rejected       string    `json:"rejected"`
	Reason         string    `json:"reason"`
	EnvoyConnected bool      `json:"envoyConnected"`
	Retained       int       `json:"retained"`
}

// KeySet is the part about a set of signing keys.
type KeySet struct {
	URL  string `json:"url"`
	Keys int    `json:"keys"`
	Err  string `json:"err"`
}

// Status asks for the state of weir; the test fails when it does not answer.
func (g *Gateway) Status() Status {
	g.t.Helper()
	var s Status
	if err := json.Unmarshal(g.admin("/api/status"), &s); err != nil {
		g.t.Fatalf("/api/status: %v", err)
	}
	return s
}

func (g *Gateway) admin(path string) []byte {
	g.t.Helper()
	resp, err := http.Get(g.AdminURL + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatalf("%s answered %d: %s (%v)", path, resp.StatusCode, body, err)
	}
	return body
}

// WaitFor looks at a condition until it is true; the test fails when it does not become so.
func (g *Gateway) WaitFor(what string, cond func() bool) {
	g.t.Helper()
	WaitFor(g.t, what, cond)
}

// WaitVersion waits until another version than before is live, and returns the status then.
func (g *Gateway) WaitVersion(before string) Status {
	g.t.Helper()
	var s Status
	if !poll(Patience, func() bool {
		s = g.Status()
		return s.Configuration.Serving != before && s.Configuration.Pending == ""
	}) {
		g.t.Fatalf("version %s is still live after %s; the status is %+v", before, Patience, s)
	}
	return s
}

// Change makes a change of the folder and waits until it is live.
func (g *Gateway) Change(change func()) Status {
	g.t.Helper()
	before := g.Status().Configuration.Serving
	change()
	return g.WaitVersion(before)
}

// Ledger is every entry that is written. weir may run or have ended.
func (g *Gateway) Ledger() []ledger.Entry {
	g.t.Helper()
	var all []ledger.Entry
	r, err := ledger.Each(context.Background(), g.state, ledger.Query{}, func(e *ledger.Entry) error {
		all = append(all, *e)
		return nil
	})
	if err != nil {
		g.t.Fatal(err)
	}
	if r.Damaged > 0 || r.Doubles > 0 {
		g.t.Errorf("the ledger has %d lines that cannot be read and %d doubles", r.Damaged, r.Doubles)
	}
	return all
}

// Metric sums the series of weir's metric that have all the labels, given as name and value in turn. It is 0 where
// there is none.
func (g *Gateway) Metric(name string, labels ...string) float64 {
	g.t.Helper()
	return metric(g.t, g.AdminURL+"/metrics?envoy=false", name, labels...) // Envoy is not to be busy with this
}

func metric(t testing.TB, url, name string, labels ...string) float64 {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatalf("/metrics: %v", err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i+1 < len(labels); i += 2 {
			matches = matches && have[labels[i]] == labels[i+1]
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// EnvoyStats asks Envoy for its counters and gauges whose names match the regular expression.
func (g *Gateway) EnvoyStats(filter string) map[string]int64 {
	g.t.Helper()
	var body struct {
		Stats []struct {
			Name  string          `json:"name"`
			Value json.RawMessage `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(g.Envoy("/stats?format=json&filter="+url.QueryEscape(filter)), &body); err != nil {
		g.t.Fatalf("Envoy's /stats: %v", err)
	}
	out := map[string]int64{}
	for _, s := range body.Stats {
		var n int64
		if json.Unmarshal(s.Value, &n) == nil {
			out[s.Name] = n
		}
	}
	return out
}

// Envoy asks Envoy's administration interface.
func (g *Gateway) Envoy(path string) []byte {
	g.t.Helper()
	sockets, _ := filepath.Glob(filepath.Join(g.runtime, "*", "admin.sock"))
	if len(sockets) != 1 {
		g.t.Fatalf("one admin socket of Envoy was expected below %s, not %v", g.runtime, sockets)
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", sockets[0])
		},
		DisableKeepAlives: true,
	}}
	resp, err := client.Get("http://envoy" + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatal(fmt.Errorf("Envoy answered %s with %d: %s (%v)", path, resp.StatusCode, body, err))
	}
	return body
}
