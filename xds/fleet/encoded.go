package fleet

import (
	"cmp"
	"log/slog"
	"slices"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// encoded is the last set as resources. What has not changed since the set before is the same pointer.
type encoded struct {
	turn      uint64
	objects   map[source.ObjectRef]*encodedObject
	values    map[string]*encodedValue // by name
	names     map[source.SecretKey]string
	endpoints map[source.ObjectRef]*encodedEndpoints
	problems  map[source.ObjectRef]*encodedProblems
	all       []*resource
}

// part is what all parts of a set have.
type part struct {
	turn uint64 // of the last set that it is part of
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

type encodedProblems struct {
	part
	list []source.Problem
}

func newEncoded() *encoded {
	return &encoded{
		objects: map[source.ObjectRef]*encodedObject{}, values: map[string]*encodedValue{}, names: map[source.SecretKey]string{},
		endpoints: map[source.ObjectRef]*encodedEndpoints{}, problems: map[source.ObjectRef]*encodedProblems{},
	}
}

// update takes the next set. Its cost is a look-up for each object, and encoding what is new.
func (e *encoded) update(objs *source.Objects, problems []source.Problem, log *slog.Logger) {
	e.turn++
	objects := objs.All()
	e.all = make([]*resource, 0, len(objects)+len(objs.Secrets)+len(objs.Endpoints))
	unwritable := func(err error) {
		log.Error("an object cannot be sent to the fleet; what it had before stays", "error", err)
	}
	for _, obj := range objects {
		if err := e.object(obj); err != nil {
			unwritable(err)
		}
	}
	for key, secret := range objs.Secrets {
		e.value(key, secret)
	}
	for ref, list := range objs.Endpoints {
		if err := e.found(ref, list); err != nil {
			unwritable(err)
		}
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
	e.sweep()
}

func (e *encoded) object(obj source.Object) error {
	ref := source.RefOf(obj)
	o := e.objects[ref]
	if o == nil || o.obj != obj {
		res, err := encodeObject(ref, obj)
		if err != nil {
			if o != nil {
				o.turn = e.turn
			}
			return err
		}
		if o == nil {
			o = &encodedObject{}
			e.objects[ref] = o
		}
		o.obj = obj
		if o.res == nil || o.res.version != res.version {
			o.res, o.values, o.backends = res, valuesOf(obj), backendsOf(obj)
		}
	}
	o.turn = e.turn
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
		e.values[name] = v
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
		e.endpoints[ref] = f
	}
	f.turn = e.turn
	return nil
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
		e.problems[ref] = p
	}
	p.turn = e.turn
	return nil
}

// sweep drops what is not part of the set, and lists the rest.
func (e *encoded) sweep() {
	sweep(e, e.objects)
	sweep(e, e.values)
	for key, name := range e.names {
		if e.values[name] == nil {
			delete(e.names, key)
		}
	}
	sweep(e, e.endpoints)
	sweep(e, e.problems)
}

func sweep[K comparable, V interface{ common() *part }](e *encoded, parts map[K]V) {
	for key, v := range parts {
		p := v.common()
		if p.turn != e.turn {
			delete(parts, key)
			continue
		}
		e.all = append(e.all, p.res)
	}
}
