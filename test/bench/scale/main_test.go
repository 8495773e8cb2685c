package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"-routes", "10, 200", "-clients", "3", "-changes", "6", "-envoy=false", "-quiet", "1s", "-o", "f"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.routes) != 2 || o.routes[1] != 200 || o.clients != 3 || o.changes != 6 || o.envoy || o.window != time.Second || o.file != "f" {
		t.Errorf("%+v", o)
	}
	for args, want := range map[string]string{
		"-routes 5":       "at least 10",
		"-routes 10,many": "at least 10",
		"-changes 5":      "at least 6",
		"-clients -1":     "must not be below 0",
		"-quiet 0s":       "above 0",
		"-routes 10 more": `unknown argument "more"`,
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// A run of few routes, with everything that a large one has: an API server, a control plane, clients, and two sidecars of which one has a real Envoy.
func TestRun(t *testing.T) {
	var out, progress bytes.Buffer
	file := t.TempDir() + "/scale.json"
	if err := run(t.Context(), []string{"-routes", "20,40", "-clients", "3", "-changes", "12", "-quiet", "300ms", "-still", "3s", "-o", file}, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	r := readReport(t, file)
	if len(r.Sizes) != 2 || r.Clients != 3 || r.Envoy == "" {
		t.Fatalf("%+v", r)
	}
	for _, s := range r.Sizes {
		if s.Backends != 10 || len(s.Changes) != 12 || s.FirstBytes == 0 || s.FirstToEnvoy.Resources == 0 || s.Statuses == 0 || len(s.Processes) != 6 {
			t.Errorf("%d routes: %+v", s.Routes, s)
		}
		for i, c := range s.Changes {
			kind := changeKinds[i%len(changeKinds)]
			if c.Kind != kind.name || c.Applied <= 0 || c.Clients <= 0 || c.Over < c.Clients || c.Fleet.Responses < 3 || c.Fleet.Bytes == 0 {
				t.Errorf("change %d: %+v", i, c)
			}
			if len(c.Sidecars) != 2 || len(c.CPU) != 6 {
				t.Errorf("change %d: %d sidecars, %d processes", i, len(c.Sidecars), len(c.CPU))
			}
			for name, e := range c.Sidecars {
				if kind.told && (e.Acked <= 0 || e.Bytes == 0 || e.Resources == 0) {
					t.Errorf("change %d, %s: %+v", i, name, e)
				}
			}
		}
	}
	for _, want := range []string{"        20        40     ratio", "until Envoy has, ms, p50", "memory of kube-apiserver, MiB", "  secret  "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
}
