package identity

import (
	"sync/atomic"
)

// StoredKeys are keys that are kept outside of the configuration and change while it stays. One for a process:
// it outlives the Authenticators that read from it. It is safe for concurrent use, and reading takes no lock.
type StoredKeys struct {
	set    atomic.Pointer[storedSet] // nil: they have not been read yet
	serial atomic.Uint64
}

// StoredKey is one of them. It is immutable but for a memory of how the last Authenticator understood it.
type StoredKey struct {
	key   Key
	bound atomic.Pointer[boundKey]
}

// boundKey is a stored key in the light of one configuration.
type boundKey struct {
	auth *Authenticator
	key  *apiKey      // nil where it lets nobody in
	err  *ConfigError // why
}

type storedSet struct {
	list   []*StoredKey
	lookup map[digest]*StoredKey
	kinds  [hashKinds]bool // that occur
}

// NewStoredKey wraps a key. Keep the result while the key does not change: replacing it costs the next request that
// uses it a little.
func NewStoredKey(k Key) *StoredKey { return &StoredKey{key: k} }

// Key is what was wrapped. It must not be changed.
func (k *StoredKey) Key() *Key { return &k.key }

// Replace makes these the stored keys, at once and for every Authenticator. Of two with the same hash the
// first counts. It returns a number that Serial gives until the next call, so that one of several writers can tell whether
// its keys are those that count.
func (s *StoredKeys) Replace(list []*StoredKey) (serial uint64) {
	set := &storedSet{list: list, lookup: make(map[digest]*StoredKey, len(list))}
	for _, k := range list {
		d := digest{k.key.Kind, k.key.Hash}
		if set.lookup[d] == nil {
			set.lookup[d] = k
			set.kinds[k.key.Kind] = true
		}
	}
	serial = s.serial.Add(1)
	s.set.Store(set)
	return serial
}

// Serial is what the last call of Replace returned, 0 before the first.
func (s *StoredKeys) Serial() uint64 { return s.serial.Load() }

// unread says that nobody knows yet which keys there are. Until then an unknown key is not called wrong.
func (s *StoredKeys) unread() bool { return s != nil && s.set.Load() == nil }

// Len is the number of stored keys.
func (s *StoredKeys) Len() int { return len(s.load().list) }

var noStoredKeys = &storedSet{}

func (s *StoredKeys) load() *storedSet {
	if s != nil {
		if set := s.set.Load(); set != nil {
			return set
		}
	}
	return noStoredKeys
}

// bind compiles a stored key for this Authenticator, once.
func (a *Authenticator) bind(k *StoredKey) *boundKey {
	if b := k.bound.Load(); b != nil && b.auth == a {
		return b
	}
	b := &boundKey{auth: a}
	switch {
	case a.names[objectID{k.key.Namespace, k.key.Name}]:
		b.err = &ConfigError{Reason: "an APIKey object has the same namespace and name, and it alone counts; rename one of them"}
	case a.keys[digest{k.key.Kind, k.key.Hash}] != nil:
		b.err = &ConfigError{Field: "hash", Reason: "an APIKey object holds the same key, and it alone counts; revoke one of them"}
	default:
		b.key, b.err = a.compileKey(&k.key)
	}
	if b.err != nil {
		b.err.Kind, b.err.Namespace, b.err.Name = "stored key", k.key.Namespace, k.key.Name
	}
	k.bound.Store(b)
	return b
}

// StoredProblems lists the stored keys that let nobody in under this configuration, and why: mostly that their
// consumer does not exist. Each error is a *ConfigError of the kind "stored key".
func (a *Authenticator) StoredProblems() []error {
	set := a.stored.load()
	var out []error
	for _, k := range set.list {
		if set.lookup[digest{k.key.Kind, k.key.Hash}] != k {
			out = append(out, &ConfigError{Kind: "stored key", Namespace: k.key.Namespace, Name: k.key.Name, Field: "hash",
				Reason: "another stored key holds the same key, and it alone counts; revoke one of them"})
			continue
		}
		if b := a.bind(k); b.err != nil {
			out = append(out, b.err)
		}
	}
	return out
}
