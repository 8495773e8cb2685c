package accept

import (
	"maps"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// limited says whether an object may have kept requests away that would pass without it: a LimitPolicy with limits that are meant, or a Budget, of
// which there was another generation. Nobody knows how much one that is not valid should let pass; where an older generation has said it and is not
// known any more, nothing passes. A first generation that is not valid has never limited anything.
func limited(o source.Object) bool {
	if o == nil || o.GetGeneration() < 2 {
		return false
	}
	switch o := o.(type) {
	case *v1alpha1.LimitPolicy:
		return len(o.Spec.Limits) > 0 && o.Spec.Mode != v1alpha1.ModeShadow
	case *v1alpha1.Budget:
		return true
	}
	return false
}

// shut is what stands for a policy that lets nothing pass: its targets count, and nothing else of it. It is the same pointer for the same object,
// and of no generation, since none is served.
func (k *Keeper) shut(o source.Object) source.Object {
	if made := k.shuts[o]; made != nil {
		return made
	}
	made := o.DeepCopyObject().(source.Object)
	marked := maps.Clone(o.GetAnnotations())
	if marked == nil {
		marked = map[string]string{}
	}
	marked[source.ShutAnnotation] = "true"
	made.SetAnnotations(marked)
	made.SetGeneration(0)
	k.shuts[o] = made
	return made
}
