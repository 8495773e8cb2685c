package e2e

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// redisLine is a network between clients and a Redis, which can be made slow.
type redisLine struct {
	addr, to string
	delay    atomic.Int64 // nanoseconds that each answer takes on its way

	mu    sync.Mutex
	conns map[net.Conn]bool
	over  bool
}

func newRedisLine(t *testing.T, to string) *redisLine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &redisLine{addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { x.carry(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		x.mu.Lock()
		x.over = true
		for c := range x.conns {
			c.Close()
		}
		x.mu.Unlock()
		running.Wait()
	})
	return x
}

// slow has each answer take so long from now on.
func (x *redisLine) slow(by time.Duration) { x.delay.Store(int64(by)) }

// keep notes a connection, to be closed at the end.
func (x *redisLine) keep(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns[c] = true
	return !x.over
}

// carry carries one connection until either side ends it.
func (x *redisLine) carry(client net.Conn) {
	server, err := net.Dial("tcp", x.to)
	if err != nil { // there is no server: the client is told so
		client.Close()
		return
	}
	end := func() {
		client.Close()
		server.Close()
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.conns, client)
		delete(x.conns, server)
	}
	defer end()
	if !x.keep(client) || !x.keep(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { defer end(); pump(server, client, nil) })
	both.Go(func() { defer end(); pump(client, server, &x.delay) })
	both.Wait()
}

// pump copies what comes, each piece after a delay.
func pump(to, from net.Conn, delay *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if delay != nil {
				if d := time.Duration(delay.Load()); d > 0 {
					time.Sleep(d) // it is what this network is for
				}
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
