package status

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A Lease is dead that was seen not to change for its duration. An outage, in which nobody could see it, kills nobody.
func TestLeases(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	leases, err := NewLeases(LeasesOptions{Config: r.cluster.Config, Namespace: r.namespace, Identity: "reader", Duration: 30 * time.Second, Now: func() time.Time { return now }})
	r.must(err)
	lease := func(name, report string) *coordinationv1.Lease {
		old := metav1.NewMicroTime(now.Add(-24 * time.Hour)) // the clock of another node
		l := &coordinationv1.Lease{ObjectMeta: r.meta(name), Spec: coordinationv1.LeaseSpec{RenewTime: &old}}
		l.Labels = map[string]string{reportLabel: "true", installLabel: "weir"}
		l.Annotations = map[string]string{reportAnnotation: report}
		r.must(r.cluster.Client.Create(t.Context(), l))
		return l
	}
	lives, _ := lease("lives", `{"serving":[{"digest":"x","replicas":2}]}`), lease("dies", `{}`)
	lease("speaks-nonsense", `{"serving":3}`)
	other := lease("of-another-installation", `{}`)
	other.Labels[installLabel] = "other"
	r.must(r.cluster.Client.Update(t.Context(), other))
	after := func(d time.Duration, renew bool, want string) {
		t.Helper()
		now = now.Add(d)
		if renew {
			r.must(r.cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(lives), lives))
			renewed := metav1.NewMicroTime(lives.Spec.RenewTime.Add(time.Second))
			lives.Spec.RenewTime = &renewed
			r.must(r.cluster.Client.Update(t.Context(), lives))
		}
		eventually(t, "reports", func() (bool, string) { // the API server answers from its memory, which may be a moment old
			reports, err := leases.Reports(t.Context())
			r.must(err)
			return fmt.Sprint(reports) == want, fmt.Sprint(reports)
		})
	}
	const both = "map[dies:{[] [] []} lives:{[{{x []} 2}] [] []}]"
	const one = "map[lives:{[{{x []} 2}] [] []}]"
	after(0, false, both)
	after(10*time.Second, true, both)
	after(10*time.Second, false, both)
	after(10*time.Second, true, both)
	after(time.Hour, false, both) // nobody could look
	after(15*time.Second, true, both)
	after(15*time.Second, false, both)
	after(time.Second, true, one)
	after(15*time.Second, false, one)
	after(15*time.Second, true, one)
	var list coordinationv1.LeaseList
	eventually(t, "the dead one is deleted", func() (bool, string) {
		_, err := leases.Reports(t.Context())
		r.must(err)
		r.must(r.cluster.Client.List(t.Context(), &list, client.InNamespace(r.namespace)))
		var names []string
		for _, l := range list.Items {
			names = append(names, l.Name)
		}
		now = now.Add(time.Second)
		return fmt.Sprint(names) == "[lives of-another-installation]", fmt.Sprint(names)
	})

	for _, identity := range []string{"", "Under_Score"} {
		if _, err := NewLeases(LeasesOptions{Config: r.cluster.Config, Namespace: "x", Identity: identity}); err == nil {
			t.Errorf("a process may be called %q", identity)
		}
	}
}

// Who does not lead must look often enough to know who is dead when it takes over, and a leader must have given up when another one takes over.
func TestDefaultsFitTogether(t *testing.T) {
	var o Options
	o.defaults()
	l, err := NewLeases(LeasesOptions{Config: &rest.Config{}, Namespace: "weir", Identity: "weir-0"})
	if err != nil {
		t.Fatal(err)
	}
	if every := idle * o.Poll; every >= l.opts.Duration/2 {
		t.Errorf("others look every %v, and a report lives for %v", every, l.opts.Duration)
	}
	if e := o.Election; e.Renew >= e.Lease || e.Retry*2 >= e.Renew {
		t.Errorf("an election of %+v", e)
	}
}
