package shared

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weir-dev/weir/internal/redisconn"
)

// place is where counters are: a Redis and what stands before every key there.
type place struct {
	conn   *redisconn.Conn
	prefix string
}

func newPlace(conn *redisconn.Conn, prefix string) (*place, error) {
	if conn == nil {
		return nil, errors.New("counting in Redis needs a connection to it, and there is none")
	}
	if prefix == "" || strings.ContainsAny(prefix, "{}") {
		return nil, fmt.Errorf("%q cannot stand before keys in Redis: give a prefix without braces", prefix)
	}
	return &place{conn: conn, prefix: prefix}, nil
}

// errMoved is the answer of a beat that was under way when the counters were moved.
var errMoved = errors.New("counting in Redis: the counters have just been moved")

// Move has everything counted in another Redis, under another prefix, or through another connection from now on. What this
// replica has spent of budgets and the requests that it runs go along: they are written with the next call for
// their counter, or within a beat. Where the data there are other ones, the replicas are given three beats to write theirs, as
// after a loss. Windows and buckets begin anew, as after a loss.
//
// Commands that are under way end on the old connection, which the caller closes when they can be over.
func (r *Remote) Move(conn *redisconn.Conn, prefix string) error {
	at, err := newPlace(conn, prefix)
	if err != nil {
		return err
	}
	r.registry.moved.Store(true)
	r.place.Store(at)
	r.doubt()
	r.kick()
	return nil
}
