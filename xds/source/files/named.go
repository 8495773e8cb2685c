package files

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-dev/weir/xds/source"
)

// A key set or a secret may lie beside the documents, under a name like theirs (jwks.json). Which file is one
// is known only when every document has been read, so all are read as documents first; then leaveOutNamed
// takes back what that said about the files that turned out to be values.

// note remembers that f holds a document of one of Weir's kinds, and the files that it names. Documents that
// are invalid or left out count as well: their files are no documents either.
func (b *builder) note(f entry, kind string, value map[string]any) {
	obj, ok := source.NewObject(kind)
	if !ok {
		return
	}
	b.holders[f.rel] = true
	// Where a value does not fit its type, what was decoded before it is used; validation says what is wrong.
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(value, obj)
	for _, r := range source.References(obj) {
		switch {
		case r.File != nil:
			b.named[resolve(f, *r.File)] = true
		case r.Ref.File != "":
			b.named[resolve(f, r.Ref.File)] = true
		}
	}
}

// leaveOutNamed drops the problems of files that objects name as values. A file with an object of its own
// stays a document file whoever names it: a wrong path must not make a file's objects disappear.
func (b *builder) leaveOutNamed() {
	if len(b.result.problems) == 0 || len(b.named) == 0 {
		return
	}
	values := map[string]bool{} // real paths: either side may be a link
	for path := range b.named {
		if real, err := realPath(path); err == nil {
			values[real] = true
		}
	}
	leftOut := map[string]bool{}
	for _, f := range b.result.tree.files {
		if real, err := realPath(f.path); err == nil && values[real] && !b.holders[f.rel] {
			leftOut[f.rel] = true
		}
	}
	b.result.problems = slices.DeleteFunc(b.result.problems, func(p source.Problem) bool { return leftOut[p.File] })
}

// keySetHint is what to do about a key set that is read as an object.
const keySetHint = "; this looks like a key set (JWKS): name it in a JWTIssuer's spec.keys.file, or move it out of the folder"

// isKeySet says whether a document that names no kind looks like a JSON Web Key Set (RFC 7517, section 5).
func isKeySet(value map[string]any) bool {
	_, hasKind := value["kind"]
	_, hasKeys := value["keys"].([]any)
	return hasKeys && !hasKind
}
