// Package source holds the objects that a compile step takes, wherever they come from: a folder of files or
// the Kubernetes API. Everything the objects point to (secrets, key sets, certificates) is loaded by the
// source, so that compiling is a pure function.
package source

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// ObjectRef names an object.
type ObjectRef struct {
	Kind, Namespace, Name string
}

// String is "Backend default/openai".
func (r ObjectRef) String() string {
	switch {
	case r.Name == "" && r.Namespace == "":
		return r.Kind
	case r.Namespace == "":
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

func compareRefs(a, b ObjectRef) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Origin is where an object was written.
type Origin struct {
	File string // relative to the folder
	Line int    // 1-based line on which the document starts

	locate func(fieldPath string) int
}

// NewOrigin makes an Origin. locate returns the 1-based line of a field path, or 0 where it does not know; it
// may be nil and must be safe for concurrent use.
func NewOrigin(file string, line int, locate func(fieldPath string) int) *Origin {
	return &Origin{File: file, Line: line, locate: locate}
}

// Locate returns the line of a field such as "spec.rules[0].backends[1].weight". A field that is not written
// in the document (it is missing, or a default) gets the line of the nearest field around it. A nil Origin
// has line 0.
func (o *Origin) Locate(fieldPath string) int {
	if o == nil {
		return 0
	}
	if o.locate != nil && fieldPath != "" {
		if line := o.locate(fieldPath); line > 0 {
			return line
		}
	}
	return o.Line
}

// Objects is one consistent reading of a source. It must not be changed once it has been handed on.
type Objects struct {
	Gateways   []*v1alpha1.LLMGateway
	Backends   []*v1alpha1.Backend
	Routes     []*v1alpha1.Route
	Consumers  []*v1alpha1.Consumer
	APIKeys    []*v1alpha1.APIKey
	JWTIssuers []*v1alpha1.JWTIssuer

	LimitPolicies []*v1alpha1.LimitPolicy
	Budgets       []*v1alpha1.Budget
	LoadPolicies  []*v1alpha1.LoadPolicy

	CachePolicies   []*v1alpha1.CachePolicy
	SessionPolicies []*v1alpha1.SessionPolicy

	ReferenceGrants []*v1alpha1.ReferenceGrant

	// Endpoints are the servers that were found of Backends that name them indirectly (spec.service, selector or inferencePool), by the
	// Backend's ref, sorted by address and port. Absent: they could not be looked up, and a Problem says why. Empty: they were, and none is ready.
	Endpoints map[ObjectRef][]v1alpha1.Endpoint
	// Namespaces are the labels of those namespaces whose Routes some LLMGateway selects by labels, as far as it asks for them. Absent: they
	// are not known. nil where nobody asks.
	Namespaces map[string]map[string]string
	// Secrets holds every value the objects point to, under SecretKeyOf or FileKeyOf. One that could not be
	// read is absent, and a Problem says so.
	Secrets map[SecretKey]Secret
	// Origins says where each object was written. Objects of a cluster have none.
	Origins map[ObjectRef]*Origin
}

// NewObjects returns empty Objects.
func NewObjects() *Objects {
	return &Objects{Endpoints: map[ObjectRef][]v1alpha1.Endpoint{}, Secrets: map[SecretKey]Secret{}, Origins: map[ObjectRef]*Origin{}}
}

// Len is the number of objects.
func (o *Objects) Len() int {
	return len(o.Gateways) + len(o.Backends) + len(o.Routes) + len(o.Consumers) + len(o.APIKeys) + len(o.JWTIssuers) +
		len(o.LimitPolicies) + len(o.Budgets) + len(o.LoadPolicies) + len(o.CachePolicies) + len(o.SessionPolicies) + len(o.ReferenceGrants)
}

// Problem makes a Problem of an object's field, with the place where that field is written.
func (o *Objects) Problem(ref ObjectRef, field string, severity Severity, format string, args ...any) Problem {
	p := Problem{Object: ref, Field: field, Message: fmt.Sprintf(format, args...), Severity: severity}
	if origin := o.Origins[ref]; origin != nil {
		p.File, p.Line = origin.File, origin.Locate(field)
	}
	return p
}

// Sort puts the objects of every kind in the order of namespace and name.
func (o *Objects) Sort() {
	sortObjects(o.Gateways)
	sortObjects(o.Backends)
	sortObjects(o.Routes)
	sortObjects(o.Consumers)
	sortObjects(o.APIKeys)
	sortObjects(o.JWTIssuers)
	sortObjects(o.LimitPolicies)
	sortObjects(o.Budgets)
	sortObjects(o.LoadPolicies)
	sortObjects(o.CachePolicies)
	sortObjects(o.SessionPolicies)
	sortObjects(o.ReferenceGrants)
}

func sortObjects[T Object](objects []T) { slices.SortFunc(objects, compareNames[T]) }

// Hash identifies the content: equal for equal objects, endpoints and secrets, wherever and in whichever order they were
// written. It covers specs, names, labels, annotations and creation times, and labels of namespaces, not status or managed fields.
// 64 hexadecimal digits.
func (o *Objects) Hash() (string, error) {
	sorted := *o
	sorted.Gateways, sorted.Backends, sorted.Routes = slices.Clone(o.Gateways), slices.Clone(o.Backends), slices.Clone(o.Routes)
	sorted.Consumers, sorted.APIKeys, sorted.JWTIssuers = slices.Clone(o.Consumers), slices.Clone(o.APIKeys), slices.Clone(o.JWTIssuers)
	sorted.LimitPolicies, sorted.Budgets = slices.Clone(o.LimitPolicies), slices.Clone(o.Budgets)
	sorted.LoadPolicies, sorted.ReferenceGrants = slices.Clone(o.LoadPolicies), slices.Clone(o.ReferenceGrants)
	sorted.CachePolicies, sorted.SessionPolicies = slices.Clone(o.CachePolicies), slices.Clone(o.SessionPolicies)
	sorted.Sort()

	h := sha256.New()
	for _, obj := range sorted.All() {
		if err := hashObject(h, obj); err != nil {
			return "", err
		}
	}
	for _, ref := range slices.SortedFunc(maps.Keys(o.Endpoints), compareRefs) {
		hashParts(h, "endpoints", ref.Kind, ref.Namespace, ref.Name, strconv.Itoa(len(o.Endpoints[ref])))
		for _, e := range o.Endpoints[ref] {
			hashParts(h, e.Address, strconv.Itoa(int(e.Port)), strconv.Itoa(int(e.Weight)))
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(o.Namespaces)) {
		hashParts(h, "namespace", namespace, strconv.Itoa(len(o.Namespaces[namespace])))
		for _, key := range slices.Sorted(maps.Keys(o.Namespaces[namespace])) {
			hashParts(h, key, o.Namespaces[namespace][key])
		}
	}
	for _, key := range sortedSecretKeys(o.Secrets) {
		hashParts(h, "secret", key.namespace, key.name, key.key, key.file, key.env, o.Secrets[key].Reveal())
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// specOf returns the spec of an object, as JSON writes it.
func specOf(obj Object) any {
	switch obj := obj.(type) {
	case *v1alpha1.LLMGateway:
		return obj.Spec
	case *v1alpha1.Backend:
		return obj.Spec
	case *v1alpha1.Route:
		return obj.Spec
	case *v1alpha1.Consumer:
		return obj.Spec
	case *v1alpha1.APIKey:
		return obj.Spec
	case *v1alpha1.JWTIssuer:
		return obj.Spec
	case *v1alpha1.LimitPolicy:
		return obj.Spec
	case *v1alpha1.Budget:
		return obj.Spec
	case *v1alpha1.LoadPolicy:
		return obj.Spec
	case *v1alpha1.CachePolicy:
		return obj.Spec
	case *v1alpha1.SessionPolicy:
		return obj.Spec
	case *v1alpha1.ReferenceGrant:
		return obj.Spec
	}
	return obj
}

// hashParts writes each part after its length, so that no two lists of parts look the same.
func hashParts(h hash.Hash, parts ...string) {
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
}
