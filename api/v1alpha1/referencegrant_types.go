package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ReferenceGrant lets objects of other namespaces refer to objects of its own. Whoever owns the namespace that is referred to writes it;
// without one, references end at the border of the namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=weirgrant
// +kubebuilder:printcolumn:name="From",type=string,JSONPath=`.spec.from[*].namespace`
// +kubebuilder:printcolumn:name="To",type=string,JSONPath=`.spec.to[*].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ReferenceGrant struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ReferenceGrantSpec `json:"spec"`
	Status Status             `json:"status,omitempty"`
}

// ReferenceGrantList is a list of ReferenceGrant.
//
// +kubebuilder:object:root=true
type ReferenceGrantList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ReferenceGrant `json:"items"`
}

// ReferenceGrantSpec permits everything in from to refer to everything in to. Routes refer to Backends; LLMGateways, Backends, APIKeys
// and JWTIssuers refer to Secrets.
//
// +kubebuilder:validation:XValidation:rule="self.from.exists(f, f.kind == 'Route') == self.to.exists(t, t.kind == 'Backend') && self.from.exists(f, f.kind != 'Route') == self.to.exists(t, t.kind == 'Secret')",message="only Routes refer to Backends, and only LLMGateways, Backends, APIKeys and JWTIssuers refer to Secrets: from and to do not belong together"
type ReferenceGrantSpec struct {
	// From: whose references are permitted.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	From []ReferenceGrantFrom `json:"from"`
	// To: what may be referred to.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	To []ReferenceGrantTo `json:"to"`
}

// ReferenceGrantFrom names all objects of a kind in a namespace.
type ReferenceGrantFrom struct {
	// Kind of the objects that refer.
	// +kubebuilder:validation:Enum=Route;LLMGateway;Backend;APIKey;JWTIssuer
	Kind GrantFromKind `json:"kind"`
	// Namespace of the objects that refer.
	Namespace NamespaceName `json:"namespace"`
}

// ReferenceGrantTo names objects in the namespace of the grant.
type ReferenceGrantTo struct {
	// Kind of what is referred to.
	// +kubebuilder:validation:Enum=Backend;Secret
	Kind GrantToKind `json:"kind"`
	// Name of the one object that may be referred to. Without it: every one of the kind.
	// +optional
	Name ObjectName `json:"name,omitempty"`
}

// GrantFromKind is a kind whose objects refer to those of other namespaces.
type GrantFromKind string

// The kinds that refer.
const (
	GrantFromRoute     GrantFromKind = "Route"
	GrantFromGateway   GrantFromKind = "LLMGateway"
	GrantFromBackend   GrantFromKind = "Backend"
	GrantFromAPIKey    GrantFromKind = "APIKey"
	GrantFromJWTIssuer GrantFromKind = "JWTIssuer"
)

// GrantToKind is a kind that objects of other namespaces may refer to.
type GrantToKind string

// The kinds that are referred to.
const (
	GrantToBackend GrantToKind = "Backend"
	GrantToSecret  GrantToKind = "Secret"
)
