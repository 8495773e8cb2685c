package main

import "testing"

// Every route has three backends of its own namespace, and there are backends of both sorts in each.
func TestObjects(t *testing.T) {
	for _, n := range []int{10, 100, 1234, 10000} {
		o := objectsOf(n)
		there, service := map[string]bool{}, map[string]map[bool]bool{}
		for b := range o.backends() {
			ns := o.namespace(b)
			there[ns+"/"+backendName(b)] = true
			if service[ns] == nil {
				service[ns] = map[bool]bool{}
			}
			service[ns][o.byService(b)] = true
		}
		if o.backends() < 10 || n >= 100 && (o.backends() > n/10 || o.backends() < n/10-share) {
			t.Errorf("%d backends of %d routes", o.backends(), n)
		}
		for ns, of := range service {
			if len(of) != 2 {
				t.Errorf("%d routes: %s has backends of one sort alone", n, ns)
			}
		}
		for i := range n {
			r := o.route(i)
			seen := map[string]bool{}
			for _, b := range r.Spec.Rules[0].Backends {
				name := r.Namespace + "/" + string(b.Name)
				if seen[name] || !there[name] {
					t.Fatalf("%d routes: %s has the backend %s, which is not there or is there twice", n, r.Name, name)
				}
				seen[name] = true
			}
		}
		for k := range 40 {
			for _, sort := range []bool{true, false} {
				if b := o.backendWhere(sort, k); b >= o.backends() || o.byService(b) != sort {
					t.Errorf("%d routes: backend %d", n, b)
				}
			}
		}
	}
}
