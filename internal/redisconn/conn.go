package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// dialTimeout is how long a new connection may take, TLS included. It is longer than a command may: a connection
	// goes on being made after the command that asked for it has given up, and serves the next.
	dialTimeout = 2 * time.Second
	// socketTimeout bounds what no context bounds: greeting a server on a connection for subscriptions.
	socketTimeout = 5 * time.Second
	// idleTime after which a connection is closed.
	idleTime = 5 * time.Minute
	// redirects of one command that a cluster may ask for, as while slots move.
	redirects = 3
)

// Conn is a pool of connections to Redis. It is safe for concurrent use. The client's own methods and pipelines may be
// used at will: each command, and each pipeline as a whole, is bounded by the deadline of its context, or by Timeout if
// that has none. Commands that block in the server need a context with a deadline.
type Conn struct {
	redis.UniversalClient
	timeout time.Duration
	health  *health
	cfg     Config
}

// Options of a Conn beyond the Config.
type Options struct {
	// Now is the clock that Health tells times by; nil is time.Now.
	Now func() time.Time
}

// Open makes a Conn. It connects when the first command is given, so that a server that is down does not keep Weir from
// starting. The error says what is wrong with the configuration.
func Open(cfg Config, opts Options) (*Conn, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.PoolSize == 0 {
		cfg.PoolSize = DefaultPoolSize
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	c := &Conn{timeout: cfg.Timeout, health: &health{now: opts.Now}, cfg: cfg}
	c.UniversalClient = redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs:            cfg.Addresses,
		MasterName:       cfg.MasterName,
		IsClusterMode:    cfg.mode() == Cluster,
		DB:               cfg.Database,
		Username:         cfg.Username,
		Password:         string(cfg.Password),
		SentinelUsername: cfg.SentinelUsername,
		SentinelPassword: string(cfg.SentinelPassword),
		TLSConfig:        tlsConfig,
		ClientName:       cfg.ClientName,
		PoolSize:         cfg.PoolSize,
		ConnMaxIdleTime:  idleTime,
		MaxRedirects:     redirects,
		// RESP2 is all that is needed here, and every server and proxy speaks it.
		Protocol:        2,
		DisableIdentity: true, // CLIENT SETINFO, which ACLs of least privilege refuse
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
		// A command that is repeated might count twice. Who gives it knows better whether to.
		MaxRetries:            -1,
		DialerRetries:         1,
		DialTimeout:           dialTimeout,
		ReadTimeout:           socketTimeout,
		WriteTimeout:          socketTimeout,
		ContextTimeoutEnabled: true,
	})
	c.AddHook(hook{c})
	return c, nil
}

// Timeout of a command whose context has no deadline.
func (c *Conn) Timeout() time.Duration { return c.timeout }

// Health tells whether Redis answers. It asks nothing: it knows from the commands that were given.
func (c *Conn) Health() Health { return c.health.get() }

// Health of a connection.
type Health struct {
	// Err of the last command if Redis could not do it; nil while it answers, and before the first command.
	Err error
	// Since when Err has not been nil without a break, or when it was nil again for the first time. Zero before the
	// first command.
	Since time.Time
	// Failures so far.
	Failures uint64
}

// health keeps what Health tells. While the server answers, a command costs it one atomic load.
type health struct {
	now      func() time.Time
	state    atomic.Pointer[Health]
	failures atomic.Uint64
}

func (h *health) get() Health {
	var out Health
	if s := h.state.Load(); s != nil {
		out = *s
	}
	out.Failures = h.failures.Load()
	return out
}

func (h *health) note(ctx context.Context, err error) {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return // who asked went away, which says nothing about the server
	}
	failed := Unavailable(err)
	if failed {
		h.failures.Add(1)
	}
	for {
		old := h.state.Load()
		var fresh Health
		switch {
		case failed && old != nil && old.Err != nil:
			fresh = Health{Err: err, Since: old.Since}
		case failed:
			fresh = Health{Err: err, Since: h.now()}
		case old == nil || old.Err != nil:
			fresh = Health{Since: h.now()}
		default:
			return
		}
		if h.state.CompareAndSwap(old, &fresh) {
			return
		}
	}
}

// Unavailable tells whether an error of a command means that Redis could not do its work, now or at all: it did not
// answer, is loading, failing over, out of memory, or does not let us in. Errors that say the command was answered, such
// as redis.Nil and those of scripts, do not.
func Unavailable(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) || errors.Is(err, redis.TxFailedErr) {
		return false
	}
	var answered redis.Error
	if !errors.As(err, &answered) {
		return true
	}
	kind, _, _ := strings.Cut(answered.Error(), " ")
	switch kind {
	case "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS",
		"NOAUTH", "WRONGPASS", "NOPERM", "UNBLOCKED", "MOVED", "ASK":
		return true
	}
	return strings.HasPrefix(answered.Error(), "ERR max number of clients") ||
		strings.HasPrefix(answered.Error(), "ERR AUTH")
}

// hook bounds every command and notes how it ended.
type hook struct{ c *Conn }

// DialHook leaves dialing as it is.
func (hook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return next(ctx, network, addr)
	}
}

// ProcessHook bounds one command.
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		bounded, cancel := h.bound(ctx)
		defer cancel()
		err := h.c.explain(ctx, next(bounded, cmd))
		h.c.health.note(ctx, err)
		return err
	}
}

// ProcessPipelineHook bounds a pipeline as a whole.
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		bounded, cancel := h.bound(ctx)
		defer cancel()
		err := h.c.explain(ctx, next(bounded, cmds))
		for _, cmd := range cmds {
			if was := cmd.Err(); was != nil {
				cmd.SetErr(h.c.explain(ctx, was))
			}
		}
		h.c.health.note(ctx, worst(err, cmds))
		return err
	}
}

// worst finds the error of a pipeline that says most about the server: the first that means it is unavailable.
func worst(err error, cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		if e := cmd.Err(); Unavailable(e) {
			return e
		}
	}
	return err
}

func (h hook) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, h.c.timeout, fmt.Errorf("Redis did not answer within %v", h.c.timeout))
}
