package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestBaseline(t *testing.T) {
	b := exampleReport().baseline()
	path := filepath.Join(t.TempDir(), "baseline.json")
	if err := b.write(path); err != nil {
		t.Fatal(err)
	}
	if back, err := readBaseline(path); err != nil || !reflect.DeepEqual(back, b) {
		t.Errorf("%+v (%v), want %+v", back, err, b)
	}
	// Envoy takes 42 us and weir 102 with it, beside 40 of the bare one and 142 with the floor's processor.
	got := b.CPU["small requests, 16 connections"]
	if want := map[string]float64{bareName: 3.6, floorName: 1.01}; !reflect.DeepEqual(got["weir"], want) || got[bareName] != nil || got[floorName] != nil {
		t.Errorf("%v, want %v of weir", got, want)
	}
	for name := range b.CPU {
		if strings.Contains(name, "idle") {
			t.Errorf("%s has no requests to divide by", name)
		}
	}
	for name, text := range map[string]string{"empty.json": "{}", "no.json": "no"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := readBaseline(path); err == nil {
			t.Errorf("%s: %+v", text, b)
		}
	}
}

func TestCheck(t *testing.T) {
	const name = "small requests, 16 connections"
	one := func(bare, floor float64) baseline {
		return baseline{map[string]map[string]map[string]float64{name: {"weir": {bareName: bare, floorName: floor}}}}
	}
	for _, c := range []struct {
		what      string
		then, now baseline
		worse     string // part of the error
		says      string
	}{
		{"the same", one(4, 1), one(4, 1), "", "1 figures are no dearer"},
		{"noise", one(4, 1), one(4.9, 1.2), "", "1 figures"},
		{"one disturbed base", one(4, 1), one(8, 1.1), "", "1 figures"},
		{"worse", one(4, 1), one(5.2, 1.3), name + ", weir: CPU for a request is 5.20 times envoy's and was 4.00, 1.30 times floor's and was 1.00", ""},
		{"better", one(4, 1), one(3, 0.7), "", "better: " + name + ", weir"},
		{"not there", baseline{map[string]map[string]map[string]float64{name: {"decide": {bareName: 4}}}}, one(4, 1), "the baseline does not have it", ""},
		{"another scenario", one(4, 1), baseline{}, "nothing that was measured", ""},
	} {
		var out bytes.Buffer
		err := c.then.check(c.now, &out)
		if (err != nil) != (c.worse != "") || err != nil && !strings.Contains(err.Error(), c.worse) || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %v\n%s", c.what, err, out.String())
		}
	}
}

// TestCommittedBaseline has every figure that is compared.
func TestCommittedBaseline(t *testing.T) {
	b, err := readBaseline("baseline.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenarios() {
		for _, v := range takingPart(s) {
			compared := s.Kind != heldLoad && v.name != bareName && v.name != floorName
			if got := b.CPU[s.Name][v.name]; compared != (got[bareName] > 0 && got[floorName] > 0) {
				t.Errorf("%s, %s: %v; write the baseline anew (make bench-baseline)", s.Name, v.name, got)
			}
		}
	}
}
