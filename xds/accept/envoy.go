package accept

import (
	"fmt"
	"slices"

	"github.com/weir-dev/weir/xds/source"
)

// Refusal is what Envoy says of a version that it refuses.
type Refusal struct {
	Version string // its ID
	Reason  string // Envoy's words
	// Named are the objects of the resources that Envoy names, and Sent those of all the resources that it may mean; either may be empty.
	Named, Sent []source.ObjectRef
}

// EnvoyRefusal is an object that Envoy refuses, or of which it refuses a value.
type EnvoyRefusal struct {
	// Object is the generation that was read, and is not served as it is.
	Object source.Object
	// Reason has Envoy's words.
	Reason string
}

// envoy is what a Keeper knows of what Envoy makes of versions. What Envoy serves is proven: of a version that it refuses, what differs from that is
// suspect.
type envoy struct {
	versions []tried // compiled since the one that is served, and that one; the last compiled last
	served   *source.Objects
	index    map[source.ObjectRef]source.Object // of served; nil until it is needed
	objects  map[source.ObjectRef]blame
	values   map[source.SecretKey]blamedValue
	search   *search
	idle     int             // searches in a row that have found nobody
	hopeless *source.Objects // a reading that Envoy refuses whatever waits
}

// maxIdle bounds the searches in a row that may find nobody: what Envoy refuses may only come of several together that are never tried so.
const maxIdle = 3

// tried is what a version was compiled from.
type tried struct {
	version string
	set     *source.Objects
}

// maxTried bounds the versions that are known: the one that is served, the one on its way, and those that came too fast.
const maxTried = 16

// blame is an object that Envoy refuses, as it is and with the values that it had then.
type blame struct {
	object source.Object
	values map[source.SecretKey]source.Secret
	words  string
}

// blamedValue is a value that Envoy refuses, and what stands for it.
type blamedValue struct {
	bad, good source.Secret
	words     string
}

// suspect is an object, or a value, that is not as Envoy serves it.
type suspect struct {
	ref source.ObjectRef // of an object
	key source.SecretKey // of a value
}

// suspicious says whether objects of a kind can be what Envoy refuses. The others it does not know of, and what lets callers in, or ends that,
// never waits for anything.
func suspicious(kind string) bool {
	switch kind {
	case "Consumer", "APIKey", "JWTIssuer", "ReferenceGrant":
		return false
	}
	return true
}

// tried notes a version that is handed to Envoy.
func (k *Keeper) tried(version string, set *source.Objects) {
	e := &k.envoy
	if e.search != nil {
		e.search.versions[version] = true
	}
	e.versions = slices.DeleteFunc(e.versions, func(t tried) bool { return t.version == version })
	e.versions = append(e.versions, tried{version, set})
	if len(e.versions) > maxTried {
		e.versions = slices.Delete(e.versions, 0, 1)
	}
}

func (k *Keeper) find(version string) (int, *source.Objects) {
	i := slices.IndexFunc(k.envoy.versions, func(t tried) bool { return t.version == version })
	if i < 0 {
		return i, nil
	}
	return i, k.envoy.versions[i].set
}

// Served says that Envoy serves a version; it may be said again. It returns whether the last reading should be compiled once more: what has
// waited for this can go on.
func (k *Keeper) Served(version string) (again bool) {
	i, set := k.find(version)
	if set == nil {
		return false
	}
	e := &k.envoy
	if e.served != set {
		e.served, e.index = set, nil
	}
	e.versions = slices.Delete(e.versions, 0, i)
	if e.search == nil {
		e.idle = 0
		return false
	}
	if !e.search.versions[version] {
		return false
	}
	e.search.taken()
	k.advance()
	return true
}

// Refused says that Envoy refuses a version. It returns whether the last reading should be compiled once more, because somebody is blamed, or
// it is being found out who is. Otherwise nobody can be: the version is refused as a whole.
func (k *Keeper) Refused(r Refusal) (again bool) {
	_, set := k.find(r.Version)
	if set == nil || k.envoy.hopeless != nil {
		return false
	}
	e := &k.envoy
	if e.search != nil {
		if !e.search.versions[r.Version] {
			return false // it was on its way when the search began
		}
		return k.refusedTrial(r, set)
	}
	changed := k.changed(set)
	if named := k.named(r, set, changed); len(named) > 0 {
		for _, s := range named {
			k.blame(s, set, r.Reason)
		}
		return true
	}
	if len(changed) == 0 || e.idle == maxIdle {
		e.idle, e.hopeless = 0, k.reading
		return false
	}
	e.idle++
	// Those of the response come first; where it is none of them, the others are tried the next time.
	if sent := among(changed, r.Sent); len(sent) > 0 {
		changed = sent
	}
	if e.served == nil {
		// Without a gateway nothing can be tried.
		changed = slices.DeleteFunc(changed, func(s suspect) bool { return s.ref.Kind == "LLMGateway" })
	}
	e.search = newSearch(changed, refusal{set, r.Reason})
	return true
}

// refusedTrial goes on with a search after Envoy has refused what was tried.
func (k *Keeper) refusedTrial(r Refusal, set *source.Objects) (again bool) {
	e := &k.envoy
	changed := map[suspect]bool{}
	for _, s := range k.changed(set) {
		changed[s] = true
	}
	group := slices.DeleteFunc(slices.Clone(e.search.testing()), func(s suspect) bool { return !changed[s] })
	if len(group) == 0 {
		// It refuses also what nobody suspects.
		e.search, e.hopeless = nil, k.reading
		return false
	}
	if named := among(group, r.Named); len(named) > 0 {
		for _, s := range named {
			k.blame(s, set, r.Reason)
		}
		e.search.without(named)
	} else {
		e.search.refused(group, refusal{set, r.Reason})
	}
	k.advance()
	return true
}

// advance goes on to what is tried next, and blames whom the search has found.
func (k *Keeper) advance() {
	e := &k.envoy
	found, done := e.search.next()
	for _, f := range found {
		k.blame(f.of, f.set, f.words)
	}
	if done {
		e.search = nil
	}
}

// named are the suspects that Envoy's words name.
func (k *Keeper) named(r Refusal, set *source.Objects, changed []suspect) []suspect {
	if found := among(changed, r.Named); len(found) > 0 {
		return found
	}
	var values, objects []suspect
	others := false // something that changed may have changed what the named objects come to
	for _, s := range changed {
		others = others || s.ref.Name != "" && s.ref.Kind != "Route" && s.ref.Kind != "Backend"
	}
	for _, ref := range r.Named {
		o := objectOf(set, ref)
		if o == nil {
			continue
		}
		for _, s := range changed {
			if s.ref.Name == "" && slices.ContainsFunc(k.references(o), func(of reference) bool { return of.key == s.key }) && !slices.Contains(values, s) {
				values = append(values, s)
			}
		}
		if !others {
			objects = append(objects, suspect{ref: ref})
		}
	}
	if len(values) > 0 {
		return values
	}
	return objects // of another Envoy than the one that took them
}

// among are the suspects that are one of these objects.
func among(suspects []suspect, refs []source.ObjectRef) []suspect {
	in := make(map[source.ObjectRef]bool, len(refs))
	for _, ref := range refs {
		in[ref] = true
	}
	var out []suspect
	for _, s := range suspects {
		if s.ref.Name != "" && in[s.ref] {
			out = append(out, s)
		}
	}
	return out
}

// blame has an object, or a value, refused until it is another one.
func (k *Keeper) blame(s suspect, set *source.Objects, words string) {
	e := &k.envoy
	e.idle = 0
	if s.ref.Name == "" {
		e.values[s.key] = blamedValue{set.Secrets[s.key], e.served.Secrets[s.key], words}
		return
	}
	o := objectOf(set, s.ref)
	if o == nil {
		return
	}
	b := blame{object: o, values: map[source.SecretKey]source.Secret{}, words: words}
	for _, of := range k.references(o) {
		if value, ok := set.Secrets[of.key]; ok {
			b.values[of.key] = value
		}
	}
	e.objects[s.ref] = b
	k.outcome = nil
	if was := k.accepted[s.ref]; was != nil && (was == o || sameObject(was, o) && sameGeneration(was, o)) {
		delete(k.accepted, s.ref)
		if proven := k.proven(s.ref); proven != nil && proven.GetAnnotations()[source.ShutAnnotation] == "" {
			k.accepted[s.ref] = proven
		}
		k.open[s.ref] = true
	}
}

// is says whether an object is the one that is blamed, and nothing that it refers to is another.
func (b *blame) is(o source.Object, secrets map[source.SecretKey]source.Secret) bool {
	if o == nil || o != b.object && (!sameObject(o, b.object) || !sameGeneration(o, b.object)) {
		return false
	}
	for key, was := range b.values {
		if value, ok := secrets[key]; ok && !value.Equal(was) {
			return false
		}
	}
	return true
}

// proven is the generation of an object that Envoy serves; nil for none.
func (k *Keeper) proven(ref source.ObjectRef) source.Object {
	e := &k.envoy
	if e.served == nil {
		return nil
	}
	if e.index == nil {
		e.index = make(map[source.ObjectRef]source.Object, e.served.Len())
		for _, o := range e.served.All() {
			e.index[source.RefOf(o)] = o
		}
	}
	o := e.index[ref]
	if b, blamed := e.objects[ref]; blamed && b.is(o, e.served.Secrets) {
		return nil // another Envoy took it
	}
	return o
}

// changed is what of a set is not as Envoy serves it, and may be what it refuses, in the order of the set.
func (k *Keeper) changed(set *source.Objects) []suspect {
	var out []suspect
	for _, o := range set.All() {
		ref := source.RefOf(o)
		if !suspicious(ref.Kind) {
			continue
		}
		if was := k.proven(ref); was != o && (was == nil || !sameObject(was, o) || !sameGeneration(was, o)) {
			out = append(out, suspect{ref: ref})
		}
	}
	if k.envoy.served == nil {
		return out
	}
	seen := map[source.SecretKey]bool{}
	for o := range ofEnvoy(set) {
		for _, of := range k.references(o) {
			now, there := set.Secrets[of.key]
			was, had := k.envoy.served.Secrets[of.key]
			if there && had && !seen[of.key] && !now.Equal(was) {
				seen[of.key] = true
				out = append(out, suspect{key: of.key})
			}
		}
	}
	return out
}

// ofEnvoy yields the objects whose values Envoy gets.
func ofEnvoy(set *source.Objects) func(yield func(source.Object) bool) {
	return func(yield func(source.Object) bool) {
		for _, g := range set.Gateways {
			if !yield(g) {
				return
			}
		}
		for _, b := range set.Backends {
			if !yield(b) {
				return
			}
		}
	}
}

// objectOf finds an object of a set.
func objectOf(set *source.Objects, ref source.ObjectRef) source.Object {
	for _, o := range set.All() {
		if o.GetName() == ref.Name && o.GetNamespace() == ref.Namespace && source.RefOf(o) == ref {
			return o
		}
	}
	return nil
}

// consider prepares a round for what Envoy refuses, and for what is being tried. It returns what Envoy refuses of the reading.
func (k *Keeper) consider(r *round) []EnvoyRefusal {
	e := &k.envoy
	if e.hopeless != r.objs {
		e.hopeless = nil
	}
	k.reading = r.objs
	var out []EnvoyRefusal
	for ref, b := range e.objects {
		now := r.current[ref]
		if !b.is(now, r.objs.Secrets) {
			delete(e.objects, ref) // it is another one, and tried again
			continue
		}
		message := "Envoy refuses it: " + b.words
		p := r.objs.Problem(ref, "", source.Error, "%s", message).Because(source.ReasonRefusedByEnvoy)
		r.byEnvoy = append(r.byEnvoy, p)
		out = append(out, EnvoyRefusal{now, message})
	}
	for key, b := range e.values {
		if now, ok := r.objs.Secrets[key]; !ok || !now.Equal(b.bad) {
			delete(e.values, key)
			continue
		}
		r.stand(key, b.good)
	}
	if len(e.values) > 0 {
		for o := range ofEnvoy(r.objs) {
			out = append(out, r.olderValues(o)...)
		}
	}
	source.SortProblems(r.byEnvoy)
	slices.SortFunc(out, func(a, b EnvoyRefusal) int { return older(a.Object, b.Object) })
	r.wait()
	return out
}

// olderValues tells of the values of an object that Envoy refuses.
func (r *round) olderValues(o source.Object) []EnvoyRefusal {
	ref := source.RefOf(o)
	e := &r.keeper.envoy
	if _, blamed := e.objects[ref]; blamed {
		return nil
	}
	for _, of := range r.keeper.references(o) {
		if b, bad := e.values[of.key]; bad {
			message := fmt.Sprintf("Envoy refuses the value of %s, so the one before it stays in use: %s", of.key, b.words)
			r.ofValues = append(r.ofValues, r.objs.Problem(ref, "", source.Error, "%s", message).Because(source.ReasonRefusedByEnvoy))
			return []EnvoyRefusal{{o, message}}
		}
	}
	return nil
}

// stand has another value stand for the one that was read.
func (r *round) stand(key source.SecretKey, value source.Secret) {
	if r.values == nil {
		r.values = map[source.SecretKey]source.Secret{}
	}
	r.values[key] = value
}

// wait notes what has to wait until others have been tried: all that has changed since what Envoy serves, apart from these.
func (r *round) wait() {
	k := r.keeper
	if k.envoy.search == nil {
		return
	}
	trying := map[suspect]bool{}
	for _, s := range k.envoy.search.testing() {
		trying[s] = true
	}
	r.held = map[source.ObjectRef]bool{}
	for _, s := range k.changed(r.objs) {
		switch {
		case trying[s] || k.envoy.served == nil && s.ref.Kind == "LLMGateway":
		case s.ref.Name != "":
			r.held[s.ref] = true
		default:
			if _, stands := r.values[s.key]; !stands {
				r.stand(s.key, k.envoy.served.Secrets[s.key])
			}
		}
	}
}

// hold has what stands for the objects that wait be what Envoy serves.
func (r *round) hold() {
	for ref := range r.held {
		switch {
		case r.refused[ref] != 0:
		case r.older(ref) != nil:
			r.refused[ref] = Older
		default:
			r.refused[ref] = LeftOut
		}
	}
}
