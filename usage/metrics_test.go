package usage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCount(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	r := record(finished(t), nil)
	m.Count(&r)
	m.Count(&r)
	r.Backend, r.Route, r.Status, r.Aborted = "", "", 401, true
	m.Count(&r)
	m.Decided(401, 20*time.Microsecond)
	m.Decided(0, 20*time.Microsecond)
	m.Attempted("default/openai", true)

	want := `
# HELP weir_requests_total Finished requests.
# TYPE weir_requests_total counter
weir_requests_total{aborted="false",backend="default/openai",dialect="anthropic",route="default/all",status="200"} 2
weir_requests_total{aborted="true",backend="",dialect="anthropic",route="",status="401"} 1
# HELP weir_attempts_total Attempts at backends.
# TYPE weir_attempts_total counter
weir_attempts_total{backend="default/openai",translated="true"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "weir_requests_total", "weir_attempts_total"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]int{
		"weir_request_duration_seconds": 1, "weir_time_to_first_byte_seconds": 1, "weir_decision_duration_seconds": 2,
	} {
		if got, err := testutil.GatherAndCount(reg, name); err != nil || got != want {
			t.Errorf("%s: %d series, want %d (%v)", name, got, want, err)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestLabelsAreBounded: whatever callers invent, the number of series depends on the configuration alone.
func TestLabelsAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for i := range 1000 {
		r := record(finished(t), nil)
		invented := fmt.Sprintf("invented-%d", i)
		r.Model, r.RequestID, r.Consumer, r.Tenant, r.Credential, r.Details, r.Exchange = invented, invented, invented, invented, invented, invented, invented
		m.Count(&r)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); n > 1 {
			t.Errorf("%s has %d series of requests that differ in what callers invent", f.GetName(), n)
		}
	}
}

func TestNoFirstByteNoObservation(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	r := record(finished(t), nil)
	r.FirstByte = 0
	m.Count(&r)
	if n, err := testutil.GatherAndCount(reg, "weir_time_to_first_byte_seconds"); err != nil || n != 0 {
		t.Errorf("%d series of a time that never came (%v)", n, err)
	}
}
