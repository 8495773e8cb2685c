package usage

import (
	"bytes"

	"github.com/weir-dev/weir/extproc/wire"
)

// The facts of a decision that records have.
const (
	factImmediate = iota
	factStream
	factDialect
	factOperation
	factModel
	factRoute
	factConsumer
	factTenant
	factCredential
	factVersion
	factExchange
	factEndpoints
	factRefusal
	factPolicy
	factOpen
	factNative
	factRelayed
	factFill
	factTrace
	factTraceFlags
	factTraceParent
	numFacts
	noFact = -1
)

// factOf finds a fact by its key.
func factOf(key []byte) int {
	switch string(key) {
	case wire.KeyImmediate:
		return factImmediate
	case wire.KeyStream:
		return factStream
	case wire.KeyDialect:
		return factDialect
	case wire.KeyOperation:
		return factOperation
	case wire.KeyModel:
		return factModel
	case wire.KeyRoute:
		return factRoute
	case wire.KeyConsumer:
		return factConsumer
	case wire.KeyTenant:
		return factTenant
	case wire.KeyCredential:
		return factCredential
	case wire.KeyVersion:
		return factVersion
	case wire.KeyExchange:
		return factExchange
	case wire.KeyEndpoints:
		return factEndpoints
	case wire.KeyRefusal:
		return factRefusal
	case wire.KeyPolicy:
		return factPolicy
	case wire.KeyOpen:
		return factOpen
	case wire.KeyNative:
		return factNative
	case wire.KeyRelayed:
		return factRelayed
	case wire.KeyFill:
		return factFill
	case wire.KeyTrace:
		return factTrace
	case wire.KeyTraceFlags:
		return factTraceFlags
	case wire.KeyTraceParent:
		return factTraceParent
	}
	return noFact
}

// yes says whether a fact is "true".
func (e *entry) yes(fact int) bool { return string(e.facts[fact]) == "true" }

// metadata reads an envoy.config.core.v3.Metadata. In a map, the last of several values of a key is the one that counts.
func (e *entry) metadata(b []byte) bool {
	ok := true
	f := read(b)
	for ok && f.next() {
		switch f.tag {
		case 1<<3 | sized: // filter_metadata
			ok = e.namespace(f.bytes)
		case 2<<3 | sized: // typed_filter_metadata
			var key, value []byte
			if key, value, ok = pair(f.bytes); ok && string(key) == wire.TokenUsageNamespace {
				ok = e.tokenUsage(value)
			}
		}
	}
	return ok && !f.broken
}

// namespace reads one namespace of the metadata: a name, and a google.protobuf.Struct.
func (e *entry) namespace(b []byte) bool {
	name, facts, ok := pair(b)
	if !ok {
		return false
	}
	switch string(name) {
	case wire.DecisionNamespace:
		return e.decision(facts)
	case wire.PeekNamespace:
		e.peekID = nil
		return each(facts, func(key, value []byte) (ok bool) {
			if string(key) == wire.PeekID {
				e.peekID, ok = structText(value)
				return ok
			}
			return true
		})
	case wire.LoadNamespace:
		e.signals = e.signals[:0]
		return each(facts, func(key, value []byte) bool {
			text, ok := structText(value)
			e.signals = append(e.signals, signal{key, text})
			return ok
		})
	}
	return true
}

// decision reads the facts of a decision. Those of a request in a lane are in a struct of their own, most of them in one text.
func (e *entry) decision(b []byte) bool {
	e.facts = [numFacts][]byte{}
	var ahead []byte
	ok := each(b, func(key, value []byte) (ok bool) {
		if n := factOf(key); n != noFact {
			e.facts[n], ok = structText(value)
			return ok
		}
		if string(key) == wire.KeyAhead {
			ahead, ok = structFields(value)
			return ok
		}
		return true
	})
	if !ok || ahead == nil {
		return ok
	}
	var (
		own  [numFacts][]byte
		rest []byte
	)
	ok = each(ahead, func(key, value []byte) (ok bool) {
		if n := factOf(key); n != noFact {
			own[n], ok = structText(value)
			return ok
		}
		if string(key) == wire.KeyRest {
			rest, ok = structText(value)
			return ok
		}
		return true
	})
	for n, text := range own {
		e.add(n, text)
	}
	for len(rest) > 0 {
		var key, value []byte
		key, rest = cutLine(rest)
		value, rest = cutLine(rest)
		e.add(factOf(key), value)
	}
	return ok
}

// cutLine cuts the first line off a text.
func cutLine(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// add sets a fact that nothing has said yet.
func (e *entry) add(fact int, text []byte) {
	if fact != noFact && len(e.facts[fact]) == 0 {
		e.facts[fact] = text
	}
}

// each calls do for each field of a google.protobuf.Struct, with its name and its encoded google.protobuf.Value, until it returns false.
func each(b []byte, do func(name, value []byte) bool) bool {
	f := read(b)
	for f.next() {
		if f.tag != 1<<3|sized {
			continue
		}
		if name, value, ok := pair(f.bytes); !ok || !do(name, value) {
			return false
		}
	}
	return !f.broken
}
