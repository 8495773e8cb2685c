package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ObjectName names another object in the same namespace.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
type ObjectName string

// NamespaceName names a namespace.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
type NamespaceName string

// ModelName is a model's name. Where a pattern is allowed, "*" stands for any run of characters.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
type ModelName string

// Duration is a length of time as Go writes it: "250ms", "30s", "5m". controller-gen does not read markers
// of an alias, so each field of this type carries the pattern itself.
type Duration = metav1.Duration

// DurationOr is an optional duration, or what stands for it where it is not given.
func DurationOr(d *Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.Duration
}

// SecretRef says where a secret value is kept. Secrets are never written inline.
//
// +kubebuilder:validation:XValidation:rule="[has(self.name), has(self.file), has(self.env)].filter(x, x).size() == 1",message="give exactly one of name, file, env"
// +kubebuilder:validation:XValidation:rule="!has(self.namespace) || has(self.name)",message="namespace belongs to name: files and environment variables are in none"
type SecretRef struct {
	// Name of a Kubernetes Secret. Not available to files in a folder.
	// +optional
	Name ObjectName `json:"name,omitempty"`
	// Namespace of the Secret. Without it: that of the object. Another namespace must permit it by a ReferenceGrant.
	// +optional
	Namespace NamespaceName `json:"namespace,omitempty"`
	// Key inside the Kubernetes Secret.
	// +optional
	// +kubebuilder:default=value
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
	// File that holds the value; surrounding white space is trimmed. A relative path starts at the
	// folder of the document.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	File string `json:"file,omitempty"`
	// Env is the name of an environment variable of the weir process.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	Env string `json:"env,omitempty"`
}

// Status is what Weir says about an object.
type Status struct {
	// ObservedGeneration is the generation the conditions speak of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Accepted (the object is valid), ResolvedRefs (all it names exists), Programmed
	// (Envoy serves it).
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// The condition types of every kind.
const (
	ConditionAccepted     = "Accepted"
	ConditionResolvedRefs = "ResolvedRefs"
	ConditionProgrammed   = "Programmed"
)
