package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"

	"github.com/redis/go-redis/v9"
)

// BuildWeir builds the weir of this source into a file.
func BuildWeir(ctx context.Context, file string) error {
	said, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "github.com/weir-dev/weir/cmd/weir").CombinedOutput()
	if err != nil {
		return fmt.Errorf("weir cannot be built: %w\n%s", err, said)
	}
	return nil
}

// StartRedis starts a redis-server on an address of its own, which keeps nothing on disk. Its working folder is dir. stop ends both the
// server and the client.
func StartRedis(ctx context.Context, dir string) (pid int, address string, client *redis.Client, stop func(), err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return 0, "", nil, nil, errors.New("redis-server is not on the PATH: install it, for example with apt-get install redis-server")
	}
	if address, err = FreeAddress(); err != nil {
		return 0, "", nil, nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, "", nil, nil, err
	}
	p, err := Start("redis-server", exec.Command(bin, "--bind", host, "--port", port, "--dir", dir, "--save", "", "--appendonly", "no", "--daemonize", "no"))
	if err != nil {
		return 0, "", nil, nil, err
	}
	client = redis.NewClient(&redis.Options{Addr: address, DialTimeout: time.Second, ContextTimeoutEnabled: true})
	stop = func() {
		_ = client.Close()
		p.Stop()
	}
	if err := p.Await(ctx, func() bool { return client.Ping(ctx).Err() == nil }); err != nil {
		stop()
		return 0, "", nil, nil, err
	}
	return p.PID(), address, client, stop, nil
}
