package kubernetes

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/xds/source"
)

// overlay holds what counts as if it had been applied.
type overlay struct {
	objects map[string]map[source.ObjectRef]source.Object // by kind
	laid    map[string]bool                               // kinds whose objects are among those of the cluster
}

func newOverlay(objects []source.Object) overlay {
	o := overlay{objects: map[string]map[source.ObjectRef]source.Object{}, laid: map[string]bool{}}
	for _, obj := range objects {
		ref := source.RefOf(obj)
		if o.objects[ref.Kind] == nil {
			o.objects[ref.Kind] = map[source.ObjectRef]source.Object{}
		}
		o.objects[ref.Kind][ref] = obj
	}
	return o
}

// lay puts the objects of a kind over what has changed in the cluster.
func (w *watcher) lay(kind string, changes map[source.ObjectRef]*record) {
	first := !w.overlay.laid[kind]
	w.overlay.laid[kind] = true
	for ref, obj := range w.overlay.objects[kind] {
		under, changed := changes[ref]
		if !changed && !first {
			continue
		}
		if kind == "LLMGateway" && w.gateways != nil && !w.gateways[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}] {
			continue
		}
		changes[ref] = w.applied(ref, obj, under)
	}
}

// applied is the record that the cluster would have of an object if it had been applied over another, or over none.
func (w *watcher) applied(ref source.ObjectRef, obj source.Object, under *record) *record {
	obj = obj.DeepCopyObject().(source.Object)
	if under != nil && under.object != nil {
		was := under.object
		obj.SetUID(was.GetUID())
		obj.SetCreationTimestamp(was.GetCreationTimestamp())
		obj.SetGeneration(was.GetGeneration())
		obj.SetLabels(over(was.GetLabels(), obj.GetLabels()))
		obj.SetAnnotations(over(was.GetAnnotations(), obj.GetAnnotations()))
	} else {
		obj.SetCreationTimestamp(metav1.NewTime(w.opts.Clock.Now().Truncate(1e9)))
	}
	return &record{ref: ref, object: obj, references: source.References(obj)}
}

// over is what is left of labels, or annotations, when others are applied: those that only the cluster has stay.
func over(was, applied map[string]string) map[string]string {
	if len(was) == 0 {
		return applied
	}
	out := maps.Clone(was)
	maps.Copy(out, applied)
	return out
}
