package source

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Object is a pointer to one of the kinds of v1alpha1.
type Object interface {
	metav1.Object
	runtime.Object
}

// NewObject returns an empty object of a kind, and false for a kind that Objects does not hold.
func NewObject(kind string) (Object, bool) {
	switch kind {
	case "LLMGateway":
		return &v1alpha1.LLMGateway{}, true
	case "Backend":
		return &v1alpha1.Backend{}, true
	case "Route":
		return &v1alpha1.Route{}, true
	case "Consumer":
		return &v1alpha1.Consumer{}, true
	case "APIKey":
		return &v1alpha1.APIKey{}, true
	case "JWTIssuer":
		return &v1alpha1.JWTIssuer{}, true
	case "LimitPolicy":
		return &v1alpha1.LimitPolicy{}, true
	case "Budget":
		return &v1alpha1.Budget{}, true
	case "LoadPolicy":
		return &v1alpha1.LoadPolicy{}, true
	case "CachePolicy":
		return &v1alpha1.CachePolicy{}, true
	case "SessionPolicy":
		return &v1alpha1.SessionPolicy{}, true
	case "ReferenceGrant":
		return &v1alpha1.ReferenceGrant{}, true
	}
	return nil, false
}

// ShutAnnotation marks a LimitPolicy or Budget that stands for a generation that is not valid, where no older one is known: what it covers is
// refused, because nobody knows what it may use.
const ShutAnnotation = "weir.dev/not-valid"

// RefOf names an object. The kind comes from the Go type, since typed clients leave TypeMeta empty.
func RefOf(obj Object) ObjectRef {
	return ObjectRef{Kind: kindOf(obj), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func kindOf(obj Object) string {
	switch obj.(type) {
	case *v1alpha1.LLMGateway:
		return "LLMGateway"
	case *v1alpha1.Backend:
		return "Backend"
	case *v1alpha1.Route:
		return "Route"
	case *v1alpha1.Consumer:
		return "Consumer"
	case *v1alpha1.APIKey:
		return "APIKey"
	case *v1alpha1.JWTIssuer:
		return "JWTIssuer"
	case *v1alpha1.LimitPolicy:
		return "LimitPolicy"
	case *v1alpha1.Budget:
		return "Budget"
	case *v1alpha1.LoadPolicy:
		return "LoadPolicy"
	case *v1alpha1.CachePolicy:
		return "CachePolicy"
	case *v1alpha1.SessionPolicy:
		return "SessionPolicy"
	case *v1alpha1.ReferenceGrant:
		return "ReferenceGrant"
	}
	return obj.GetObjectKind().GroupVersionKind().Kind
}

// Add appends an object to its kind. It does not look for doubles, and does not sort.
func (o *Objects) Add(obj Object) error {
	switch obj := obj.(type) {
	case *v1alpha1.LLMGateway:
		o.Gateways = append(o.Gateways, obj)
	case *v1alpha1.Backend:
		o.Backends = append(o.Backends, obj)
	case *v1alpha1.Route:
		o.Routes = append(o.Routes, obj)
	case *v1alpha1.Consumer:
		o.Consumers = append(o.Consumers, obj)
	case *v1alpha1.APIKey:
		o.APIKeys = append(o.APIKeys, obj)
	case *v1alpha1.JWTIssuer:
		o.JWTIssuers = append(o.JWTIssuers, obj)
	case *v1alpha1.LimitPolicy:
		o.LimitPolicies = append(o.LimitPolicies, obj)
	case *v1alpha1.Budget:
		o.Budgets = append(o.Budgets, obj)
	case *v1alpha1.LoadPolicy:
		o.LoadPolicies = append(o.LoadPolicies, obj)
	case *v1alpha1.CachePolicy:
		o.CachePolicies = append(o.CachePolicies, obj)
	case *v1alpha1.SessionPolicy:
		o.SessionPolicies = append(o.SessionPolicies, obj)
	case *v1alpha1.ReferenceGrant:
		o.ReferenceGrants = append(o.ReferenceGrants, obj)
	default:
		return fmt.Errorf("objects of type %T have no place here", obj)
	}
	return nil
}

// All lists every object, by kind in alphabetical order and inside a kind in the order of the slices.
func (o *Objects) All() []Object {
	out := make([]Object, 0, o.Len())
	out = appendObjects(out, o.APIKeys)
	out = appendObjects(out, o.Backends)
	out = appendObjects(out, o.Budgets)
	out = appendObjects(out, o.CachePolicies)
	out = appendObjects(out, o.Consumers)
	out = appendObjects(out, o.JWTIssuers)
	out = appendObjects(out, o.Gateways)
	out = appendObjects(out, o.LimitPolicies)
	out = appendObjects(out, o.LoadPolicies)
	out = appendObjects(out, o.ReferenceGrants)
	out = appendObjects(out, o.Routes)
	return appendObjects(out, o.SessionPolicies)
}

func appendObjects[T Object](out []Object, objects []T) []Object {
	for _, obj := range objects {
		out = append(out, obj)
	}
	return out
}
