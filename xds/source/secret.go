package source

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// redacted stands wherever a secret would be printed.
const redacted = "[secret]"

// Secret is a value that no printer shows: fmt, JSON, YAML and slog all say "[secret]". The zero value holds
// the empty string.
type Secret struct {
	// A pointer: fmt cannot call methods of an unexported field of another struct, and prints the address of
	// a pointer there instead of what it points to.
	value *string
}

// NewSecret wraps a value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the value. Call it as late as possible, and never for a message.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal says whether two secrets hold the same value.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// String hides the value.
func (s Secret) String() string { return redacted }

// GoString hides the value.
func (s Secret) GoString() string { return redacted }

// Format hides the value from every verb of fmt.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalJSON hides the value.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(redacted)), nil }

// MarshalText hides the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue hides the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// SecretKey names a value in Objects.Secrets. It is comparable.
type SecretKey struct {
	namespace, name, key string // a Kubernetes Secret
	file                 string
	env                  string
}

// SecretKeyOf names the value that ref of an object in namespace points to.
func SecretKeyOf(namespace string, ref v1alpha1.SecretRef) SecretKey {
	if ref.Namespace != "" {
		namespace = string(ref.Namespace)
	}
	switch {
	case ref.Name != "":
		return SecretKey{namespace: namespace, name: string(ref.Name), key: ref.Key}
	case ref.File != "":
		return FileKeyOf(ref.File)
	default:
		return SecretKey{env: ref.Env}
	}
}

// FileKeyOf names the content of a file, such as the key set of a JWTIssuer.
func FileKeyOf(path string) SecretKey { return SecretKey{file: path} }

// String says where the value is kept.
func (k SecretKey) String() string {
	switch {
	case k.name != "":
		return fmt.Sprintf("Secret %s/%s, key %s", k.namespace, k.name, k.key)
	case k.file != "":
		return "file " + k.file
	default:
		return "environment variable " + k.env
	}
}

func sortedSecretKeys(m map[SecretKey]Secret) []SecretKey {
	keys := make([]SecretKey, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b SecretKey) int {
		return cmp.Or(strings.Compare(a.namespace, b.namespace), strings.Compare(a.name, b.name),
			strings.Compare(a.key, b.key), strings.Compare(a.file, b.file), strings.Compare(a.env, b.env))
	})
	return keys
}

// SecretOf returns the Kubernetes Secret that the key is of; false where the value is in a file or in the environment.
func (k SecretKey) SecretOf() (ref ObjectRef, key string, ok bool) {
	if k.name == "" {
		return ObjectRef{}, "", false
	}
	return ObjectRef{Kind: "Secret", Namespace: k.namespace, Name: k.name}, k.key, true
}

// Local returns the path of the file, or the name of the environment variable, that the key is of. The other is "".
func (k SecretKey) Local() (file, env string) { return k.file, k.env }

// Reference is a place in an object that points to a value outside of it. Exactly one of Ref and File is set.
type Reference struct {
	Field string              // spec.credential.secretRef
	Ref   *v1alpha1.SecretRef // the reference inside the object
	File  *string             // the path inside the object, of a file that is not a secret (a JWKS document)
}

// References finds every reference of an object (a pointer to one of the kinds of v1alpha1), in the order of
// its fields. A new kind or field needs no change here.
func References(object any) []Reference {
	var out []Reference
	collectReferences(reflect.ValueOf(object), "", &out)
	return out
}

func collectReferences(v reflect.Value, path string, out *[]Reference) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectReferences(v.Elem(), path, out)
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectReferences(v.Index(i), path+"["+strconv.Itoa(i)+"]", out)
		}
	case reflect.Struct:
		if v.CanAddr() {
			switch x := v.Addr().Interface().(type) {
			case *v1alpha1.SecretRef:
				*out = append(*out, Reference{Field: path, Ref: x})
				return
			case *v1alpha1.JWTKeys:
				if x.File != "" {
					*out = append(*out, Reference{Field: joinPath(path, "file"), File: &x.File})
				}
			}
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "" || name == "metadata" || name == "status" {
				continue
			}
			collectReferences(v.Field(i), joinPath(path, name), out)
		}
	}
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
