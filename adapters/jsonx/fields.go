package jsonx

// Fields are the members of an object whose values are asked for by name: one walk finds them all, where each Get of a Value walks
// the object again, long texts included.
type Fields struct {
	few  [8]field // so that usual objects need no memory
	n    int      // of few
	more []field
}

type field struct {
	name  []byte
	value Value
}

// Fields reads the members of an object; those of any other kind are none.
func (v Value) Fields() (f Fields) {
	for name, m := range v.Members() {
		if f.n < len(f.few) {
			f.few[f.n] = field{name, m}
			f.n++
		} else {
			f.more = append(f.more, field{name, m})
		}
	}
	return f
}

// Get is the first member of that name, or nil.
func (f *Fields) Get(name string) Value {
	for i := range f.few[:f.n] {
		if m := &f.few[i]; string(m.name) == name {
			return m.value
		}
	}
	for i := range f.more {
		if m := &f.more[i]; string(m.name) == name {
			return m.value
		}
	}
	return nil
}
