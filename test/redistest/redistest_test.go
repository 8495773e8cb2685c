package redistest_test

import (
	"context"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

func TestServerLivesAndDies(t *testing.T) {
	ctx := context.Background()
	s := redistest.Start(t)
	c := s.Client()
	if err := c.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if s.Commands(ctx, c) < 2 {
		t.Error("the server counts no commands")
	}
	s.Pause()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	if err := c.Conn().Get(short, "k").Err(); err == nil {
		t.Error("a paused server answered")
	}
	cancel()
	s.Resume()
	if v := c.Get(ctx, "k").Val(); v != "v" {
		t.Errorf("after the pause k is %q", v)
	}
	s.Kill()
	if err := c.Get(ctx, "k").Err(); err == nil {
		t.Error("a killed server answered")
	}
	s.Restart()
	if n, err := c.Exists(ctx, "k").Result(); err != nil || n != 0 {
		t.Errorf("after a restart k exists %d times, %v", n, err)
	}
}

func TestServerTakesArguments(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "secret")
	if err := s.Client().Ping(context.Background()).Err(); err == nil {
		t.Error("a server with a password answered without it")
	}
}
