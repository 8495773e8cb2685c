package pick

import (
	"reflect"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/breaker"
)

func TestFromAPI(t *testing.T) {
	d := func(s time.Duration) *v1alpha1.Duration { return &v1alpha1.Duration{Duration: s} }
	n := func(v int32) *int32 { return &v }
	for name, c := range map[string]struct {
		spec v1alpha1.LoadPolicySpec
		want Policy
	}{
		"nothing said": {v1alpha1.LoadPolicySpec{}, Policy{
			KVLimit: 0.98,
			Breaker: &breaker.Rule{ID: "Backend/ns/pool", Name: "ns/pool", ErrorPercent: 50, MinRequests: 10, Window: 10 * time.Second,
				OpenFor: 5 * time.Second, HalfOpenRequests: 3},
		}},
		"everything said": {
			v1alpha1.LoadPolicySpec{
				Picking: v1alpha1.Picking{Mode: v1alpha1.PickWeights, Choices: 4, KVCacheLimitPercent: 90,
					PrefixAffinity:  &v1alpha1.PrefixAffinity{BlockTokens: 32, MaxBlocks: 5000, MaxGapTokens: 7},
					SessionAffinity: &v1alpha1.SessionAffinity{Header: "x-chat", IdleTimeout: d(time.Minute), MaxGapTokens: 0}},
				Admission: &v1alpha1.LoadAdmission{MaxRequestsPerEndpoint: 8, MaxTokensPerEndpoint: 9000, MaxWaiting: 0, MaxWait: d(time.Second),
					Priorities: []v1alpha1.LoadPriority{{ConsumerLabels: map[string]string{"plan": "gold"}, Priority: 10}}},
				CircuitBreaker: v1alpha1.EndpointBreaker{ErrorPercent: n(20), MinRequests: 5, Window: d(time.Minute), OpenFor: d(2 * time.Second), HalfOpenRequests: 1},
				Health:         v1alpha1.HealthRules{WarmUp: d(time.Hour)},
			},
			Policy{
				Mode: Weights, Choices: 4, KVLimit: 0.9,
				Prefix:  &Prefix{BlockTokens: 32, MaxBlocks: 5000, MaxGapTokens: 7},
				Session: &Session{Header: "x-chat", IdleTimeout: time.Minute},
				Admission: &Admission{MaxRequests: 8, MaxTokens: 9000, MaxWait: time.Second,
					Priorities: []Priority{{Labels: map[string]string{"plan": "gold"}, Priority: 10}}},
				Breaker: &breaker.Rule{ID: "Backend/ns/pool", Name: "ns/pool", ErrorPercent: 20, MinRequests: 5, Window: time.Minute,
					OpenFor: 2 * time.Second, HalfOpenRequests: 1},
			},
		},
		"breaker off": {v1alpha1.LoadPolicySpec{CircuitBreaker: v1alpha1.EndpointBreaker{ErrorPercent: n(0)}}, Policy{KVLimit: 0.98}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := FromAPI("ns/pool", &c.spec); !reflect.DeepEqual(*got, c.want) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
		})
	}
}

func TestPriorityOf(t *testing.T) {
	a := &Admission{Priorities: []Priority{
		{map[string]string{"plan": "gold", "team": "a"}, 20},
		{map[string]string{"plan": "gold"}, 10},
		{map[string]string{"plan": ""}, -5},
	}}
	for _, c := range []struct {
		labels map[string]string
		want   int32
	}{
		{map[string]string{"plan": "gold", "team": "a", "x": "y"}, 20},
		{map[string]string{"plan": "gold", "team": "b"}, 10},
		{map[string]string{"plan": "silver"}, 0},
		{map[string]string{"plan": ""}, -5},
		{nil, 0},
	} {
		if got := a.PriorityOf(c.labels); got != c.want {
			t.Errorf("%v: %d, want %d", c.labels, got, c.want)
		}
	}
	if got := (*Admission)(nil).PriorityOf(nil); got != 0 {
		t.Errorf("without admission: %d", got)
	}
}

func TestModeIsSpelledAsInTheAPI(t *testing.T) {
	if LeastLoad.String() != string(v1alpha1.PickLeastLoad) || Weights.String() != string(v1alpha1.PickWeights) {
		t.Errorf("%s, %s", LeastLoad, Weights)
	}
}
