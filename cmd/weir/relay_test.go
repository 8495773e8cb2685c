package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// TestCacheEndsBeforeItsRedis: when the gateway drains, the cache has done with Redis before the connection goes. Else it would take the end
// of the connection for one of Redis, and warn of that.
func TestCacheEndsBeforeItsRedis(t *testing.T) {
	server := redistest.Start(t)
	var log logged
	conn, err := redisconn.Open(redisconn.Config{Addresses: []string{server.Addr}, Timeout: storeTimeout * 3 / 4}, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	answers := cache.New(cache.Options{Now: time.Now, Log: to})
	answers.Use([]*cache.Policy{{ID: "ns/p", TTL: time.Hour, MaxEntryBytes: 1 << 20, MemoryBytes: 1 << 20, Redis: true, Bloom: &cache.Bloom{Keys: 1000, FalsePositives: 0.01}}})
	answers.Share(conn, "test", "one")
	answering := func(when string) {
		t.Helper()
		if err := conn.Ping(context.Background()).Err(); err != nil {
			t.Errorf("%s the connection is gone: %v", when, err)
		}
	}
	touch, stop := context.WithCancel(t.Context())
	r := &remembered{g: &gateway{log: to}, answers: answers, conn: conn, ran: make(chan struct{})}
	r.stop = func() {
		answering("when the cache is told to end,")
		stop()
	}
	go func() {
		defer close(r.ran)
		answers.Run(touch)
		answering("while the cache ends,")
	}()
	untilIs(t, "the cache uses Redis", func() bool { return answers.Stats().RedisUp })
	r.close()
	if err := conn.Ping(context.Background()).Err(); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("the connection is left open: %v", err)
	}
	if log.String() != "" {
		t.Errorf("the log says:\n%s", log.String())
	}
}
