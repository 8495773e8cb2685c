package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// collector is a process with the OpenTelemetry Collector's own OTLP receiver: test/otlp, which is a module of its own.
type collector struct {
	grpc, http string // addresses

	mu      sync.Mutex
	spans   []span
	scopes  map[string]bool // of what came, by signal and service: "traces/weir"
	logs    string          // OTLP JSON
	metrics string
	teams   map[string]bool // values of the header x-team
}

// buildCollector builds the process's program.
func buildCollector(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "otlp")
	cmd := exec.Command("go", "build", "-C", "../otlp", "-o", path, ".")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the collector cannot be built: %v\n%s", err, out)
	}
	return path
}

// startCollector runs it until the test ends.
func startCollector(t *testing.T, path string) *collector {
	t.Helper()
	c := &collector{
		grpc: fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)), http: fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)),
		scopes: map[string]bool{}, teams: map[string]bool{},
	}
	cmd := exec.Command(path, "-grpc", c.grpc, "-http", c.http)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(out)
		for {
			b, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			if c.take(t, b) {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		_ = cmd.Wait() // a signal ends it
	})
	select {
	case <-ready:
	case <-done:
		t.Fatal("the collector has ended at its start")
	}
	return c
}

// The JSON of OTLP, as far as tests read it.
type (
	otlpLine struct {
		Ready  bool     `json:"ready"`
		Team   []string `json:"team"`
		Traces *struct {
			ResourceSpans []struct {
				Resource   otlpResource `json:"resource"`
				ScopeSpans []struct {
					Spans []otlpSpan `json:"spans"`
				} `json:"scopeSpans"`
			} `json:"resourceSpans"`
		} `json:"traces"`
		Logs    json.RawMessage `json:"logs"`
		Metrics json.RawMessage `json:"metrics"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpAttribute struct {
		Key   string `json:"key"`
		Value struct {
			String *string  `json:"stringValue"`
			Int    *string  `json:"intValue"`
			Double *float64 `json:"doubleValue"`
			Bool   *bool    `json:"boolValue"`
		} `json:"value"`
	}
	otlpSpan struct {
		TraceID      string          `json:"traceId"`
		SpanID       string          `json:"spanId"`
		ParentSpanID string          `json:"parentSpanId"`
		Name         string          `json:"name"`
		Kind         int             `json:"kind"`
		Start        string          `json:"startTimeUnixNano"`
		End          string          `json:"endTimeUnixNano"`
		Attributes   []otlpAttribute `json:"attributes"`
		Events       []struct {
			Name string `json:"name"`
			Time string `json:"timeUnixNano"`
		} `json:"events"`
		Status struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"status"`
	}
)

// Kinds of spans, and the code of a status that is an error, in OTLP.
const (
	internalSpan = 1
	serverSpan   = 2
	clientSpan   = 3
	statusError  = 2
)

// span is one that was received.
type span struct {
	trace, id, parent, name string
	kind                    int
	begun, ended            int64 // nanoseconds since 1970
	attrs                   map[string]string
	events                  map[string]int64
	failed                  bool
	words                   string
}

func attributes(list []otlpAttribute) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		switch v := a.Value; {
		case v.String != nil:
			out[a.Key] = *v.String
		case v.Int != nil:
			out[a.Key] = *v.Int
		case v.Bool != nil:
			out[a.Key] = strconv.FormatBool(*v.Bool)
		case v.Double != nil:
			out[a.Key] = strconv.FormatFloat(*v.Double, 'g', -1, 64)
		default:
			out[a.Key] = "..."
		}
	}
	return out
}

// take reads a line, and says whether it is the first one.
func (c *collector) take(t *testing.T, b []byte) (ready bool) {
	var l otlpLine
	if err := json.Unmarshal(b, &l); err != nil {
		t.Errorf("the collector says %q: %v", b, err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, team := range l.Team {
		c.teams[team] = true
	}
	c.logs += string(l.Logs)
	c.metrics += string(l.Metrics)
	if l.Traces == nil {
		return l.Ready
	}
	nanos := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Errorf("the time %q: %v", s, err)
		}
		return n
	}
	for _, r := range l.Traces.ResourceSpans {
		c.scopes["traces/"+attributes(r.Resource.Attributes)["service.name"]] = true
		for _, s := range r.ScopeSpans {
			for _, x := range s.Spans {
				got := span{
					trace: x.TraceID, id: x.SpanID, parent: x.ParentSpanID, name: x.Name, kind: x.Kind, begun: nanos(x.Start), ended: nanos(x.End),
					attrs: attributes(x.Attributes), events: map[string]int64{}, failed: x.Status.Code == statusError, words: x.Status.Message,
				}
				for _, e := range x.Events {
					got.events[e.Name] = nanos(e.Time)
				}
				c.spans = append(c.spans, got)
			}
		}
	}
	return l.Ready
}

// of are the spans of a trace that have come: the request, the decision, the attempts.
func (c *collector) of(trace string) []span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []span
	for _, s := range c.spans {
		if s.trace == trace {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b span) int {
		if n := a.kind - b.kind; n != 0 && (a.kind == serverSpan || b.kind == serverSpan) {
			return map[bool]int{true: -1, false: 1}[a.kind == serverSpan]
		} else if n != 0 {
			return n
		}
		return strings.Compare(a.id, b.id)
	})
	return out
}

// traceOf waits for the trace of the request that has such an ID, and n spans of it.
func (c *collector) traceOf(t *testing.T, requestID string, n int) []span {
	t.Helper()
	var out []span
	harness.WaitFor(t, fmt.Sprintf("%d spans of request %s", n, requestID), func() bool {
		c.mu.Lock()
		i := slices.IndexFunc(c.spans, func(s span) bool { return s.kind == serverSpan && s.attrs["weir.request_id"] == requestID })
		trace := ""
		if i >= 0 {
			trace = c.spans[i].trace
		}
		c.mu.Unlock()
		if trace == "" {
			return false
		}
		out = c.of(trace)
		return len(out) >= n
	})
	return out
}

// has says whether something came in the logs or metrics.
func (c *collector) has(logs, metrics string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.logs, logs) && strings.Contains(c.metrics, metrics)
}
