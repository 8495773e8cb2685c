package serve

import "github.com/weir-dev/weir/internal/cow"

// books are versions of resources by name, kept beside those that they are to become: what still differs is known without a look at all of them.
type books struct {
	is  map[string]string
	to  cow.Map[string]
	off map[string]bool // names under which is and to differ
}

func newBooks(is map[string]string) *books {
	b := &books{is: make(map[string]string, len(is)), off: make(map[string]bool, len(is))}
	for name, version := range is {
		b.put(name, version)
	}
	return b
}

// aim has them become others. It takes as long as the two differ.
func (b *books) aim(to cow.Map[string]) {
	from := b.to
	b.to = to
	for name := range cow.Diff(from, to) {
		b.compare(name)
	}
}

// compare finds out whether there is a difference under a name.
func (b *books) compare(name string) {
	is, there := b.is[name]
	to, wanted := b.to.Lookup(name)
	if there != wanted || is != to {
		b.off[name] = true
	} else {
		delete(b.off, name)
	}
}

func (b *books) put(name, version string) {
	b.is[name] = version
	b.compare(name)
}

func (b *books) drop(name string) {
	delete(b.is, name)
	b.compare(name)
}

// apply takes over what a response says.
func (b *books) apply(c *change) {
	for name, version := range c.versions {
		b.put(name, version)
	}
	for _, name := range c.removed {
		b.drop(name)
	}
}
