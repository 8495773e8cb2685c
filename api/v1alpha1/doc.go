// Package v1alpha1 is the one language Weir's users write: Kubernetes-style documents, read from a
// folder or from the Kubernetes API, with one schema and one set of CEL rules for both.
//
// +kubebuilder:object:generate=true
// +groupName=weir.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "weir.dev", Version: "v1alpha1"}

// AddToScheme registers every kind of this package with s.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&LLMGateway{}, &LLMGatewayList{},
		&Backend{}, &BackendList{},
		&Route{}, &RouteList{},
		&Consumer{}, &ConsumerList{},
		&APIKey{}, &APIKeyList{},
		&JWTIssuer{}, &JWTIssuerList{},
		&LimitPolicy{}, &LimitPolicyList{}, &Budget{}, &BudgetList{},
		&LoadPolicy{}, &LoadPolicyList{},
		&CachePolicy{}, &CachePolicyList{},
		&SessionPolicy{}, &SessionPolicyList{},
		&ReferenceGrant{}, &ReferenceGrantList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
