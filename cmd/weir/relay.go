package main

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/semantic"
	"github.com/weir-dev/weir/extproc/relay"
	"github.com/weir-dev/weir/extproc/session"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/xds/compile"
)

// relayGrace is how long requests that the relay answers may run on when the gateway closes, and how long a cache has to write what waits: Envoy
// has drained by then, or has been cut.
const relayGrace = time.Second

// remembered is what the relay keeps: answers and conversations.
type remembered struct {
	g        *gateway
	sessions *session.Manager
	answers  *cache.Cache
	meanings *semantic.Finder

	stop context.CancelFunc // ends what keeps in touch with Redis
	ran  chan struct{}      // closed when that has ended

	mu     sync.Mutex
	shared *compile.Shared // where answers are shared; nil where they are not
	conn   *redisconn.Conn // to it
	closed bool
}

// startRelay serves what CachePolicies and SessionPolicies cover. Without any, Envoy does not know of it.
func (g *gateway) startRelay() error {
	sessions, err := session.New(session.Options{Now: time.Now, Log: g.log, Metrics: g.registry, Place: g.acct.shared.place})
	if err != nil {
		return err
	}
	r := &remembered{
		g: g, sessions: sessions, answers: cache.New(cache.Options{Now: time.Now, Log: g.log, Registry: g.registry}),
		meanings: semantic.New(semantic.Options{Now: time.Now, Registry: g.registry}),
	}
	g.remembered = r
	moved := r.moved
	g.acct.shared.moved.Store(&moved)
	lost := func(err error) { g.log.Warn("a response was not kept", "error", err) }
	s := relay.New(relay.Options{
		Flights: g.flights, Dialects: g.dialects, Inner: g.relayed.inner, Log: g.log, Registry: g.registry,
		Cache: r.answers, Meanings: r.meanings, Sessions: sessions, Responses: sessionresponses.New(sessions, time.Now, rand.Reader, lost),
	})
	g.running.Go(func() {
		if err := s.Serve(g.relayDoor); err != nil {
			g.log.Error("the relay ended", "error", err)
		}
	})
	var touch context.Context
	touch, r.stop = context.WithCancel(g.background)
	r.ran = make(chan struct{})
	g.running.Go(func() {
		defer close(r.ran)
		r.answers.Run(touch)
	})
	g.running.Go(func() { sessions.Run(g.background) })
	g.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), relayGrace)
		defer cancel()
		s.Close(ctx)
		sessions.Close()
		r.close()
	})
	return nil
}

// use takes the policies of a table that goes live.
func (r *remembered) use(t *table.Table) {
	var caches []*cache.Policy
	var conversations []*session.Policy
	t.Caches.Each(func(k *table.Kept[table.CachePolicy]) bool {
		caches = append(caches, k.Policy)
		return true
	})
	t.Sessions.Each(func(k *table.Kept[table.SessionPolicy]) bool {
		conversations = append(conversations, k.Policy)
		return true
	})
	r.sessions.Use(conversations)
	r.moved()
	r.answers.Use(caches)
	r.meanings.Use(caches)
}

// purge removes answers, and what leads to them. It says how many answers there were.
func (r *remembered) purge(ctx context.Context, of cache.Selector) (int, error) {
	n, err := r.answers.Purge(ctx, of)
	if _, lost := r.meanings.Purge(ctx, of); lost != nil {
		// They lead nowhere, and go when they are found.
		r.g.log.Debug("the meanings of purged answers could not be forgotten", "error", lost)
	}
	return n, err
}

// moved takes another Redis, where there is another one, or none any more. Answers have connections of their own: large ones must not keep
// limits waiting.
func (r *remembered) moved() {
	want := r.g.acct.shared.where()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.shared.Equal(want) {
		return
	}
	var conn *redisconn.Conn
	prefix, replica := "", ""
	if want != nil {
		var err error
		if conn, err = redisconn.Open(want.Redis, redisconn.Options{}); err != nil {
			r.g.log.Error("kept answers cannot be shared", "error", err)
			return
		}
		prefix = want.KeyPrefix
		_, replica = r.g.acct.ledger.Slot()
	}
	r.answers.Share(conn, prefix, replica)
	r.meanings.Share(conn, prefix)
	if r.conn != nil {
		r.conn.Close()
	}
	r.shared, r.conn = want, conn
}

func (r *remembered) close() {
	ctx, cancel := context.WithTimeout(context.Background(), relayGrace)
	defer cancel()
	if err := r.answers.Close(ctx); err != nil {
		r.g.log.Warn("some answers were not kept", "error", err)
	}
	// Before the connection goes, lest its end be taken for one of Redis.
	r.stop()
	<-r.ran
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.conn != nil {
		r.conn.Close()
	}
}
