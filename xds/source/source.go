package source

import (
	"context"
	"time"
)

// Source is where objects come from: a folder, the Kubernetes API or a control plane.
type Source interface {
	// Watch blocks until ctx is done. It calls fn when everything was read for the first time, and then after each change. Calls
	// never overlap; while fn runs, changes wait, and one call tells of all of them. What fn is given must not be changed; an object that has
	// not changed since the last call is the same pointer.
	Watch(ctx context.Context, fn func(*Objects, []Problem))
	// Health says whether what was told last is what holds now. It is safe for concurrent use.
	Health() Health
	// String names the source for people: "folder deploy/local".
	String() string
}

// Health of a Source.
type Health struct {
	// Connected is false while what is served may be old, because the API server or the control plane does not answer.
	Connected bool
	// Since is when Connected became what it is.
	Since time.Time
	// Reason says why the source is not connected; "" where it is.
	Reason string
}
