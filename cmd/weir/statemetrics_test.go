package main

import (
	"maps"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/table"
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
	n := metricNames(objs, tbl)
	if got := slices.Sorted(maps.Keys(n.Models)); !slices.Equal(got, []string{"alias", "gpt"}) {
		t.Errorf("models %q", got)
	}
	if got := slices.Sorted(maps.Keys(n.Tenants)); !slices.Equal(got, []string{"acme", "ns"}) {
		t.Errorf("tenants %q", got)
	}
	if got := n.Providers["default/up"]; got != "azure.ai.openai" {
		t.Errorf("provider %q", got)
	}
	if n := metricNames(nil, tbl); len(n.Models) != 1 || len(n.Tenants) != 0 {
		t.Errorf("without objects: %+v", n)
	}
}
