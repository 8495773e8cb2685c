package kubernetes

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lookupKey names a list that objects ask for.
type lookupKey struct {
	resource       schema.GroupVersionResource
	namespace      string
	fields, labels string // selectors
}

// named is the name that the selector of fields asks for; "" where it asks for none.
func (k lookupKey) named() string { return strings.TrimPrefix(k.fields, "metadata.name=") }

// String is "team-a/key", or "team-a" of what is in no namespace.
func (k lookupKey) String() string {
	s := strings.TrimPrefix(k.namespace+"/"+k.named()+k.labels, "/")
	if k.resource.Group != "" {
		s += " (" + k.resource.Group + ")"
	}
	return s
}

// lookup is one such list.
type lookup[T any] struct {
	*feed[T]
	stop  func()
	since time.Time
	round uint64 // the last in which it was wanted
}

// lookups are the lists that objects ask for: started when the first one does, and stopped when none does any more.
type lookups[T any] struct {
	start func(key lookupKey) *lookup[T]
	lists map[lookupKey]*lookup[T]
	round uint64
}

// begin begins a round: what is not wanted in it is stopped at its end.
func (l *lookups[T]) begin() { l.round++ }

func (l *lookups[T]) want(key lookupKey) *lookup[T] {
	found := l.lists[key]
	if found == nil {
		found = l.start(key)
		l.lists[key] = found
	}
	found.round = l.round
	return found
}

func (l *lookups[T]) end() {
	for key, found := range l.lists {
		if found.round != l.round {
			found.stop()
			delete(l.lists, key)
		}
	}
}

// deadline is the latest moment until which a list that has not been answered yet is waited for; zero if there is none.
func (l *lookups[T]) deadline(wait time.Duration) (latest time.Time) {
	for _, found := range l.lists {
		if at := found.since.Add(wait); !found.state().answered() && at.After(latest) {
			latest = at
		}
	}
	return latest
}
