package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/xds/source"
)

// TestMetricNames: what a configuration names is known, patterns are not, and a consumer without a tenant has its namespace.
func TestMetricNames(t *testing.T) {
	backend := &table.Backend{ID: "default/up", Dialect: &canon.Dialect{Name: "openai"}, Host: "me.openai.azure.com", Models: map[string]string{"gpt": "gpt-2024"}}
	var b table.Builder
	if err := b.Add(&table.Rule{Candidates: []*table.Candidate{{Backend: backend}}}, table.Match{Models: []string{"alias"}}); err != nil {
		t.Fatal(err)
	}
	tbl := &table.Table{}
	b.Build(tbl)
	objs := source.NewObjects()
	objs.Routes = []*v1alpha1.Route{{Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Matches: []v1alpha1.RouteMatch{{Models: []v1alpha1.ModelName{"alias", "claude-*"}}}}}}}}
	objs.Consumers = []*v1alpha1.Consumer{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: v1alpha1.ConsumerSpec{Tenant: "acme"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}},
	}
	n := new(metricNames).of(objs, tbl)
	if got := slices.Sorted(maps.Keys(n.Models)); !slices.Equal(got, []string{"alias", "gpt"}) {
		t.Errorf("models %q", got)
	}
	if got := slices.Sorted(maps.Keys(n.Tenants)); !slices.Equal(got, []string{"acme", "ns"}) {
		t.Errorf("tenants %q", got)
	}
	if got := n.Providers["default/up"]; got != "azure.ai.openai" {
		t.Errorf("provider %q", got)
	}
	if n := new(metricNames).of(nil, tbl); len(n.Models) != 1 || len(n.Tenants) != 0 {
		t.Errorf("without objects: %+v", n)
	}
}

// TestMetricNamesOfChanges: whatever changes, what is found from the changes is what is found of the whole, and what was found before stays as it is.
func TestMetricNamesOfChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var names metricNames
	backends := map[string]*table.Backend{}
	var rules []*table.Rule
	objs := source.NewObjects()
	backend := func() *table.Backend {
		id := fmt.Sprint("default/", rng.IntN(6))
		if backends[id] == nil || rng.IntN(3) == 0 { // another value, another backend
			backends[id] = &table.Backend{ID: id, Dialect: &canon.Dialect{Name: "openai"}, Host: []string{"a.example.com", "me.openai.azure.com"}[rng.IntN(2)],
				Models: map[string]string{fmt.Sprint("model-", rng.IntN(8)): ""}}
		}
		return backends[id]
	}
	for step := range 500 {
		switch i := rng.IntN(len(rules) + 1); {
		case i == len(rules) || len(rules) < 3:
			rules = slices.Insert(slices.Clone(rules), i, &table.Rule{Candidates: []*table.Candidate{{Backend: backend()}, {Backend: backend()}}})
		case rng.IntN(2) == 0:
			rules = slices.Delete(slices.Clone(rules), i, i+1)
		default:
			rules = slices.Clone(rules)
			rules[i] = &table.Rule{Candidates: []*table.Candidate{{Backend: backend()}}}
		}
		next := *objs
		next.Routes = append(slices.Clone(objs.Routes), &v1alpha1.Route{Spec: v1alpha1.RouteSpec{Rules: []v1alpha1.RouteRule{{Matches: []v1alpha1.RouteMatch{{
			Models: []v1alpha1.ModelName{v1alpha1.ModelName(fmt.Sprint("alias-", rng.IntN(8)))}}}}}}})
		next.Consumers = append(slices.Clone(objs.Consumers), &v1alpha1.Consumer{Spec: v1alpha1.ConsumerSpec{Tenant: fmt.Sprint("t", rng.IntN(5))}})
		if i := rng.IntN(len(next.Routes)); len(next.Routes) > 4 {
			next.Routes = slices.Delete(next.Routes, i, i+1)
		}
		if i := rng.IntN(len(next.Consumers)); len(next.Consumers) > 4 {
			next.Consumers = slices.Delete(next.Consumers, i, i+1)
		}
		objs = &next
		var b table.Builder
		for _, r := range rules {
			if err := b.Add(r, table.Match{}); err != nil {
				t.Fatal(err)
			}
		}
		tbl := &table.Table{}
		b.Build(tbl)
		before := names.now
		copied := usage.Names{Providers: maps.Clone(before.Providers), Models: maps.Clone(before.Models), Tenants: maps.Clone(before.Tenants)}
		got, want := names.of(objs, tbl), new(metricNames).of(objs, tbl)
		if !maps.Equal(got.Models, want.Models) || !maps.Equal(got.Tenants, want.Tenants) || len(got.Providers) != len(want.Providers) {
			t.Fatalf("step %d: %v, want %v", step, got, want)
		}
		if !maps.Equal(before.Providers, copied.Providers) || !maps.Equal(before.Models, copied.Models) || !maps.Equal(before.Tenants, copied.Tenants) {
			t.Fatalf("step %d: what was found before has changed", step)
		}
		again := names.of(objs, tbl)
		if reflect.ValueOf(again.Models).Pointer() != reflect.ValueOf(got.Models).Pointer() || reflect.ValueOf(again.Providers).Pointer() != reflect.ValueOf(got.Providers).Pointer() {
			t.Fatalf("step %d: the maps are others where nothing has changed", step)
		}
	}
}
