package kubernetes

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

var secretsResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// byName selects the one object of a name.
func byName(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// secretData is the content of a Secret by its keys. Secrets do not print.
type secretData map[string]source.Secret

// readSecret takes the content of a Secret. What is not base64 cannot come from an API server, and counts as empty.
func readSecret(u *unstructured.Unstructured, _ secretData, _ bool) secretData {
	data, _, _ := unstructured.NestedMap(u.Object, "data")
	out := make(secretData, len(data))
	for key, encoded := range data {
		text, _ := encoded.(string)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			raw = nil
		}
		out[key] = source.NewSecret(strings.TrimSpace(string(raw)))
	}
	return out
}

func sameSecret(a, b secretData) bool { return maps.EqualFunc(a, b, source.Secret.Equal) }

// values finds what objects point to.
type values struct {
	secrets *lookups[secretData]
	local   map[string]localValue // by path: the files that objects point to
	env     func(string) (string, bool)
	allowed map[string]bool // namespaces whose objects may point to files and the environment
}

// localValue is the content of a file as it was read last.
type localValue struct {
	value   source.Secret
	problem string
	wanted  bool
}

func readLocal(path string) localValue {
	value, problem := reading.FileValue(path)
	return localValue{value: source.NewSecret(value), problem: problem, wanted: true}
}

// want asks for every Secret that the objects point to and may point to.
func (v *values) want(referring map[source.ObjectRef]*record, grants source.Grants) {
	v.secrets.begin()
	for _, rec := range referring {
		for _, r := range rec.references {
			if r.Ref == nil {
				continue
			}
			if secret, _, ok := source.SecretKeyOf(rec.ref.Namespace, *r.Ref).SecretOf(); ok && grants.Permit(rec.ref, secret) {
				v.secrets.want(secretKey(secret))
			}
		}
	}
	v.secrets.end()
}

func secretKey(secret source.ObjectRef) lookupKey {
	return lookupKey{resource: secretsResource, namespace: secret.Namespace, fields: byName(secret.Name)}
}

// collect returns the values, and what is wrong with those that are missing.
func (v *values) collect(referring map[source.ObjectRef]*record) (map[source.SecretKey]source.Secret, []source.Problem) {
	found := map[source.SecretKey]source.Secret{}
	var problems []source.Problem
	for path, l := range v.local {
		l.wanted = false
		v.local[path] = l
	}
	for _, rec := range referring {
		for _, r := range rec.references {
			key, value, p := v.one(rec, r)
			if p.Message != "" {
				p.Object, p.Field = rec.ref, r.Field+p.Field
				problems = append(problems, p)
			}
			if value != (source.Secret{}) {
				found[key] = value
			}
		}
	}
	maps.DeleteFunc(v.local, func(_ string, l localValue) bool { return !l.wanted })
	return found, problems
}

// one finds the value of one reference. The Field of the problem is relative to the reference.
func (v *values) one(rec *record, r source.Reference) (key source.SecretKey, value source.Secret, p source.Problem) {
	path, field := "", ""
	switch {
	case r.File != nil:
		key, path = source.FileKeyOf(*r.File), *r.File
	default:
		key, path, field = source.SecretKeyOf(rec.ref.Namespace, *r.Ref), r.Ref.File, reading.RefField(*r.Ref)
	}
	if secret, name, ok := key.SecretOf(); ok {
		value, p = v.secret(secret, name)
		p.Field = cmp.Or(p.Field, field)
		return key, value, p
	}
	fail := func(reason source.Reason, message string) (source.SecretKey, source.Secret, source.Problem) {
		return key, source.Secret{}, source.Problem{Field: field, Reason: reason, Message: message}
	}
	if !v.allowed[rec.ref.Namespace] {
		return fail(source.ReasonRefNotPermitted, fmt.Sprintf("objects of namespace %s may not point to files and environment variables of the gateway: use the name of a Secret", rec.ref.Namespace))
	}
	if path == "" {
		text, problem := reading.EnvValue(v.env, r.Ref.Env)
		if problem != "" {
			return fail(source.ReasonSecretUnavailable, problem)
		}
		return key, source.NewSecret(text), source.Problem{}
	}
	if !filepath.IsAbs(path) {
		return fail(source.ReasonInvalid, fmt.Sprintf("the path %q is relative, and an object of a cluster is in no folder: give an absolute one", path))
	}
	l, ok := v.local[path]
	if !ok {
		l = readLocal(path)
	}
	l.wanted = true
	v.local[path] = l
	if l.problem != "" {
		return fail(source.ReasonSecretUnavailable, l.problem)
	}
	return key, l.value, source.Problem{}
}

// secret finds a value in a Secret. A Secret that was not asked for is one that may not be referred to: compiling says so.
func (v *values) secret(secret source.ObjectRef, key string) (source.Secret, source.Problem) {
	list := v.secrets.lists[secretKey(secret)]
	if list == nil {
		return source.Secret{}, source.Problem{}
	}
	fail := func(field, format string, args ...any) (source.Secret, source.Problem) {
		return source.Secret{}, source.Problem{Field: field, Reason: source.ReasonSecretUnavailable, Message: fmt.Sprintf(format, args...)}
	}
	state := list.state()
	right := fmt.Sprintf("give Weir's ServiceAccount the verbs list and watch on secrets with resourceNames [%s] in namespace %s", secret.Name, secret.Namespace)
	switch {
	case !state.synced && state.forbidden():
		return fail("", "Weir may not read %s: %s", secret, right)
	case !state.synced && state.failure != nil:
		return fail("", "%s cannot be read now: %s", secret, state.cause())
	case !state.synced:
		return fail("", "%s could not be read yet: the API server has not answered", secret)
	}
	data, ok := list.get(types.NamespacedName{Namespace: secret.Namespace, Name: secret.Name})
	if !ok {
		return fail("", "%s does not exist: create it, or correct the name", secret)
	}
	value, ok := data[key]
	switch {
	case !ok && len(data) == 0:
		return fail(".key", "%s has no key %q: it is empty", secret, key)
	case !ok: // which keys it has is for those who may read it
		return fail(".key", "%s has no key %q among its %d", secret, key, len(data))
	case value.Reveal() == "":
		return fail(".key", "the key %q of %s is empty", key, secret)
	case len(value.Reveal()) > reading.MaxValueBytes:
		return fail(".key", "the key %q of %s is larger than %d KiB", key, secret, reading.MaxValueBytes>>10)
	}
	if state.forbidden() {
		return value, source.Problem{Severity: source.Warning, Reason: source.ReasonSecretUnavailable,
			Message: fmt.Sprintf("Weir may not read %s any more, and goes on with what it read: %s", secret, right)}
	}
	return value, source.Problem{}
}

// reread reads the files again and says whether any differs.
func (v *values) reread() (changed bool) {
	for path, old := range v.local {
		now := readLocal(path)
		if !now.value.Equal(old.value) || now.problem != old.problem {
			v.local[path], changed = now, true
		}
	}
	return changed
}
