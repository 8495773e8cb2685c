package fleet

import (
	"cmp"
	"log/slog"
	"maps"
	"reflect"
	"slices"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// encoded is the last set as resources, and how that differs from the set before. What has not changed is the same pointer.
type encoded struct {
	turn      uint64
	digest    string // of the objects
	objects   map[source.ObjectRef]*encodedObject
	values    map[string]*encodedValue // by name
	names     map[source.SecretKey]string
	endpoints map[source.ObjectRef]*encodedEndpoints
	labels    map[string]*encodedLabels // by namespace
	problems  map[source.ObjectRef]*encodedProblems

	// What the last set was made of.
	follower source.Follower
	ofValues map[source.SecretKey]source.Secret
	ofFound  map[source.ObjectRef][]v1alpha1.Endpoint
	ofLabels map[string]map[string]string

	// The names of what the last set has no more that the one before had, and then what it has that the one before had not.
	gone  []string
	fresh []*resource
}

// part is what all parts of a set have.
type part struct {
	turn uint64 // of the last set that was gone through of which it is part
	res  *resource
}

func (p *part) common() *part { return p }

type encodedObject struct {
	part
	obj      source.Object
	values   []string           // names of the values it refers to
	backends []source.ObjectRef // that it names
}

type encodedValue struct {
	part
	secret source.Secret
}

type encodedEndpoints struct {
	part
	list []v1alpha1.Endpoint
}

type encodedLabels struct {
	part
	labels map[string]string
}

type encodedProblems struct {
	part
	list []source.Problem
}

func newEncoded() *encoded {
	return &encoded{
		objects: map[source.ObjectRef]*encodedObject{}, values: map[string]*encodedValue{}, names: map[source.SecretKey]string{},
		endpoints: map[source.ObjectRef]*encodedEndpoints{}, labels: map[string]*encodedLabels{}, problems: map[source.ObjectRef]*encodedProblems{},
	}
}

// update takes the next set, and encodes what is new. It relies on objects that have not changed being the same pointers, and on maps that have not changed
// being the same maps: of these nothing is looked at.
func (e *encoded) update(objs *source.Objects, problems []source.Problem, log *slog.Logger) {
	e.turn++
	e.fresh, e.gone = nil, nil
	unwritable := func(err error) {
		log.Error("an object cannot be sent to the fleet; what it had before stays", "error", err)
	}
	step := e.follower.Next(objs)
	e.digest = step.Digest
	e.step(step, unwritable)
	if len(e.objects) != objs.Len() {
		// Of objects that are there twice, or that could not be written at all, what has changed does not tell what there is.
		e.everyObject(objs, unwritable)
	}
	if !sameMap(e.ofValues, objs.Secrets) {
		e.ofValues = objs.Secrets
		for key, secret := range objs.Secrets {
			e.value(key, secret)
		}
		sweep(e, e.values)
		for key, name := range e.names {
			if e.values[name] == nil {
				delete(e.names, key)
			}
		}
	}
	if !sameMap(e.ofFound, objs.Endpoints) {
		e.ofFound = objs.Endpoints
		for ref, list := range objs.Endpoints {
			if err := e.found(ref, list); err != nil {
				unwritable(err)
			}
		}
		sweep(e, e.endpoints)
	}
	if !sameMap(e.ofLabels, objs.Namespaces) {
		e.ofLabels = objs.Namespaces
		for namespace, labels := range objs.Namespaces {
			e.labelled(namespace, labels)
		}
		sweep(e, e.labels)
	}
	byObject := map[source.ObjectRef][]source.Problem{}
	for _, p := range problems {
		byObject[p.Object] = append(byObject[p.Object], p)
	}
	for ref, list := range byObject {
		if err := e.problem(ref, list); err != nil {
			unwritable(err)
		}
	}
	sweep(e, e.problems)
}

// sameMap says whether two maps are one.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// step takes over what has changed of the objects.
func (e *encoded) step(step source.Step, unwritable func(error)) {
	for _, obj := range step.Fresh {
		if err := e.object(obj); err != nil {
			unwritable(err)
		}
	}
	for _, obj := range step.Gone {
		ref := source.RefOf(obj)
		if o := e.objects[ref]; o != nil && o.obj == obj {
			delete(e.objects, ref)
			e.gone = append(e.gone, o.res.name)
		}
	}
}

// everyObject goes through all objects.
func (e *encoded) everyObject(objs *source.Objects, unwritable func(error)) {
	for _, obj := range objs.All() {
		if err := e.object(obj); err != nil {
			unwritable(err)
		}
	}
	sweep(e, e.objects)
}

func (e *encoded) object(obj source.Object) error {
	ref := source.RefOf(obj)
	o := e.objects[ref]
	if o != nil && o.obj == obj {
		o.turn = e.turn
		return nil
	}
	res, err := encodeObject(ref, obj)
	if err != nil {
		if o != nil {
			o.obj, o.turn = obj, e.turn
		}
		return err
	}
	if o == nil {
		o = &encodedObject{}
		e.objects[ref] = o
	}
	o.obj, o.turn = obj, e.turn
	if o.res == nil || o.res.version != res.version {
		o.res, o.values, o.backends = res, valuesOf(obj), backendsOf(obj)
		e.fresh = append(e.fresh, res)
	}
	return nil
}

// valuesOf names the values that an object refers to.
func valuesOf(obj source.Object) []string {
	var out []string
	for _, r := range source.References(obj) {
		key := source.SecretKey{}
		if r.File != nil {
			key = source.FileKeyOf(*r.File)
		} else {
			key = source.SecretKeyOf(obj.GetNamespace(), *r.Ref)
		}
		out = append(out, valueName(openKey(key)))
	}
	return out
}

func (e *encoded) value(key source.SecretKey, secret source.Secret) {
	name, ok := e.names[key]
	if !ok {
		name = valueName(openKey(key))
		e.names[key] = name
	}
	v := e.values[name]
	if v == nil || !v.secret.Equal(secret) {
		v = &encodedValue{part{res: encodeValue(openKey(key), secret.Reveal())}, secret}
		e.values[name], e.fresh = v, append(e.fresh, v.res)
	}
	v.turn = e.turn
}

func (e *encoded) found(ref source.ObjectRef, list []v1alpha1.Endpoint) error {
	f := e.endpoints[ref]
	if f == nil || !slices.Equal(f.list, list) {
		res, err := encodeEndpoints(ref, list)
		if err != nil {
			return err
		}
		f = &encodedEndpoints{part{res: res}, list}
		e.endpoints[ref], e.fresh = f, append(e.fresh, res)
	}
	f.turn = e.turn
	return nil
}

func (e *encoded) labelled(namespace string, labels map[string]string) {
	l := e.labels[namespace]
	if l == nil || !maps.Equal(l.labels, labels) {
		l = &encodedLabels{part{res: encodeLabels(namespace, labels)}, labels}
		e.labels[namespace], e.fresh = l, append(e.fresh, l.res)
	}
	l.turn = e.turn
}

func (e *encoded) problem(ref source.ObjectRef, list []source.Problem) error {
	slices.SortStableFunc(list, func(a, b source.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
	})
	p := e.problems[ref]
	if p == nil || !slices.Equal(p.list, list) {
		res, err := encodeProblems(ref, list)
		if err != nil {
			return err
		}
		p = &encodedProblems{part{res: res}, list}
		e.problems[ref], e.fresh = p, append(e.fresh, res)
	}
	p.turn = e.turn
	return nil
}

// sweep drops what was not met when the set was gone through.
func sweep[K comparable, V interface{ common() *part }](e *encoded, parts map[K]V) {
	for key, v := range parts {
		if p := v.common(); p.turn != e.turn {
			delete(parts, key)
			e.gone = append(e.gone, p.res.name)
		}
	}
}

// all are all resources of the set.
func (e *encoded) all() []*resource {
	out := make([]*resource, 0, len(e.objects)+len(e.values)+len(e.endpoints)+len(e.labels)+len(e.problems))
	out = appendParts(out, e.objects)
	out = appendParts(out, e.values)
	out = appendParts(out, e.endpoints)
	out = appendParts(out, e.labels)
	return appendParts(out, e.problems)
}

func appendParts[K comparable, V interface{ common() *part }](out []*resource, parts map[K]V) []*resource {
	for _, v := range parts {
		out = append(out, v.common().res)
	}
	return out
}
