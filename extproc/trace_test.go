package extproc

import (
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/wire"
)

// TestTraceContext: what a caller sends of its trace, and what of it goes on. Source: https://www.w3.org/TR/trace-context/#processing-model
func TestTraceContext(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	header := "00-" + id + "-" + parent + "-01"
	for name, c := range map[string]struct {
		headers   []string
		continued bool
		state     bool // tracestate goes on
	}{
		"one":                      {[]string{wire.TraceHeader, header, wire.TraceStateHeader, "vendor=1"}, true, true},
		"none":                     {nil, false, false},
		"a state of no trace":      {[]string{wire.TraceStateHeader, "vendor=1"}, false, false},
		"a state of no good trace": {[]string{wire.TraceHeader, header + "-x", wire.TraceStateHeader, "vendor=1"}, false, false},
		"two":                      {[]string{wire.TraceHeader, header, wire.TraceHeader, header}, false, false},
		"two of the future":        {[]string{wire.TraceHeader, "01" + header[2:], wire.TraceHeader, header}, false, false},
		"nothing and one":          {[]string{wire.TraceHeader, "x", wire.TraceHeader, header}, false, false},
	} {
		for _, model := range []string{"gpt-4o", "gpt-pool"} { // one goes direct, the other through a chain
			t.Run(name+" "+model, func(t *testing.T) {
				r := newCapturing(t, nil, nil)
				h := chatHeaders(c.headers...)
				d := r.open(h, asks(model, false))
				place := said(d.first, wire.KeyTrace)
				if got := strings.Contains(place, id) && said(d.first, wire.KeyTraceParent) == parent; got != c.continued {
					t.Errorf("the place is %q of %q", place, said(d.first, wire.KeyTraceParent))
				}
				sent := h.apply(d.first.GetRequestHeaders().GetResponse().GetHeaderMutation())
				if d.first.GetRequestHeaders() == nil || (sent.get(wire.TraceStateHeader) != "") != c.state {
					t.Errorf("tracestate %q goes on; %v", sent.get(wire.TraceStateHeader), d.first)
				}
				d.end()
			})
		}
	}
}
