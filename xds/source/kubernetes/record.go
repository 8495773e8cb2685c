package kubernetes

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weir-dev/weir/api/schema"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/internal/reading"
)

// record is an object as it was read. It is not changed once it was made.
type record struct {
	ref         source.ObjectRef
	object      source.Object // where a problem is an Error, what can be read of it; nil where that is nothing
	problems    []source.Problem
	references  []source.Reference
	fingerprint [sha256.Size]byte
}

// discovered returns the object if it is a Backend whose servers have to be found.
func (r *record) discovered() (*v1alpha1.Backend, bool) {
	b, ok := r.object.(*v1alpha1.Backend)
	return b, ok && b.Spec.Discovered()
}

// sameRecord says whether two records are of the same content.
func sameRecord(a, b *record) bool { return a == b || a.fingerprint == b.fingerprint }

// reader makes records of objects.
type reader struct {
	validator *schema.Validator
}

// read makes a record of an object, or returns old if nothing that matters differs: Weir's own writing of status must lead to nothing.
func (r reader) read(u *unstructured.Unstructured, old *record, had bool) *record {
	trim(u.Object)
	fingerprint, err := fingerprintOf(u.Object)
	if err == nil && had && fingerprint == old.fingerprint {
		return old
	}
	out := &record{fingerprint: fingerprint, ref: source.ObjectRef{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}}
	if err != nil {
		out.fail("", fmt.Sprintf("cannot be read: %v", err))
		out.leftOut(u)
		return out
	}
	defaulted, errs := r.validator.Validate(u.Object)
	for _, e := range errs {
		if reading.Unknown(e) {
			out.problems = append(out.problems, source.Problem{Object: out.ref, Field: reading.Path(e), Severity: source.Warning, Reason: source.ReasonUnsupported,
				Message: "this version of Weir does not know the field, and goes on without it: the cluster's CustomResourceDefinition is of another version"})
			continue
		}
		out.fail(reading.Path(e), reading.Message(e))
	}
	var obj source.Object
	if !source.HasErrors(out.problems) {
		if obj, err = reading.Decode(out.ref.Kind, defaulted); err != nil {
			out.fail("", err.Error())
		}
	}
	if source.HasErrors(out.problems) {
		// It is not served. But its status says so, and what it names and whom it covers may matter: another Weir has accepted it, maybe.
		obj = reading.Readable(out.ref.Kind, u.Object)
		out.leftOut(u)
	}
	if out.object = obj; obj != nil {
		out.references = source.References(obj)
	}
	return out
}

func (r *record) fail(field, message string) {
	r.problems = append(r.problems, source.Problem{Object: r.ref, Field: field, Message: message, Reason: source.ReasonInvalid})
}

// leftOut says in the problems which object it is that there will not be: another one of its name may have been read before.
func (r *record) leftOut(u *unstructured.Unstructured) {
	for i := range r.problems {
		r.problems[i].UID = u.GetUID()
	}
}

// keptMetadata is what of metadata is kept.
var keptMetadata = []string{"name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "labels", "annotations"}

// trim takes away what Weir does not read, and what changes without the object being another one.
func trim(obj map[string]any) {
	delete(obj, "status")
	meta, _ := obj["metadata"].(map[string]any)
	small := make(map[string]any, len(keptMetadata))
	for _, name := range keptMetadata {
		if value, ok := meta[name]; ok {
			small[name] = value
		}
	}
	if annotations, ok := small["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
		if len(annotations) == 0 {
			delete(small, "annotations")
		}
	}
	obj["metadata"] = small
}

// lastApplied is the annotation in which kubectl keeps the whole object a second time.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// fingerprintOf tells two trimmed contents of an object apart.
func fingerprintOf(obj map[string]any) ([sha256.Size]byte, error) {
	raw, err := json.Marshal(obj)
	if err != nil {
		return [sha256.Size]byte{}, errors.New("its content is not JSON")
	}
	return sha256.Sum256(raw), nil
}
