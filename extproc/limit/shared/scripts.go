package shared

import (
	"context"
	"crypto/sha1"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lua/prelude.lua
	preludeLua string
	//go:embed lua/window.lua
	windowLua string
	//go:embed lua/bucket.lua
	bucketLua string
	//go:embed lua/shares.lua
	sharesLua string
	//go:embed lua/registry.lua
	registryLua string
)

// script is Lua text and the name that Redis has for it once it has seen it. EVALSHA names scripts by their SHA-1.
type script struct{ text, sha string }

func newScript(text string) *script {
	text = preludeLua + text
	sum := sha1.Sum([]byte(text))
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

type scripts struct{ window, bucket, shares, registry *script }

func newScripts() scripts {
	return scripts{
		window:   newScript(windowLua),
		bucket:   newScript(bucketLua),
		shares:   newScript(sharesLua),
		registry: newScript(registryLua),
	}
}

// call is one run of a script.
type call struct {
	script *script
	keys   []string // without the prefix
	args   []any
}

// command makes the EVALSHA of the call, or with the text of the script the EVAL.
func (c *call) command(ctx context.Context, prefix string, withText bool) once {
	args := make([]any, 0, 3+len(c.keys)+len(c.args))
	if withText {
		args = append(args, "eval", c.script.text)
	} else {
		args = append(args, "evalsha", c.script.sha)
	}
	args = append(args, len(c.keys))
	for _, k := range c.keys {
		args = append(args, prefix+k)
	}
	return once{redis.NewCmd(ctx, append(args, c.args...)...)}
}

// once is a command that is not given again when its outcome is unknown, as a broken connection makes a client of a
// cluster do: it would count twice.
type once struct{ *redis.Cmd }

// NoRetry tells the client so.
func (once) NoRetry() bool { return true }

// run runs a script in one round trip. One that the server does not know, as after it was started, takes a second.
func (r *Remote) run(ctx context.Context, c *call) ([]any, error) {
	at := r.place.Load()
	cmd := c.command(ctx, at.prefix, false)
	_ = at.conn.Process(ctx, cmd)
	if unknownScript(cmd.Err()) {
		cmd = c.command(ctx, at.prefix, true)
		_ = at.conn.Process(ctx, cmd)
	}
	return result(cmd)
}

// runAll runs scripts in one pipeline. The results and errors are in the order of the calls.
func (r *Remote) runAll(ctx context.Context, calls []*call) ([][]any, []error) {
	values, errs := make([][]any, len(calls)), make([]error, len(calls))
	at := r.place.Load()
	send := func(which []int, withText bool) (unknown []int) {
		pipe := at.conn.Pipeline()
		cmds := make([]once, len(which))
		for i, n := range which {
			// Within a pipeline the text need be sent once: the server knows it from then on. In a cluster that holds
			// for each server, and which one it is is not known here.
			cmds[i] = calls[n].command(ctx, at.prefix, withText)
			_ = pipe.Process(ctx, cmds[i])
		}
		_, _ = pipe.Exec(ctx)
		for i, n := range which {
			if !withText && unknownScript(cmds[i].Err()) {
				unknown = append(unknown, n)
				continue
			}
			values[n], errs[n] = result(cmds[i])
		}
		return unknown
	}
	all := make([]int, len(calls))
	for i := range all {
		all[i] = i
	}
	if unknown := send(all, false); len(unknown) > 0 {
		send(unknown, true)
	}
	return values, errs
}

func unknownScript(err error) bool {
	return err != nil && (errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT"))
}

func result(cmd once) ([]any, error) {
	values, err := cmd.Slice()
	if err != nil {
		return nil, fmt.Errorf("counting in Redis: %w", err)
	}
	return values, nil
}

// ints reads the first n values of a reply, which must be whole numbers.
func ints(values []any, n int) ([]int64, error) {
	if len(values) < n {
		return nil, fmt.Errorf("counting in Redis: the script answered %d values where there should be %d", len(values), n)
	}
	out := make([]int64, n)
	for i := range out {
		switch v := values[i].(type) {
		case int64:
			out[i] = v
		case string:
			x, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("counting in Redis: value %d of the script's answer is %q, not a whole number", i+1, v)
			}
			out[i] = x
		default:
			return nil, fmt.Errorf("counting in Redis: value %d of the script's answer is a %T, not a whole number", i+1, v)
		}
	}
	return out, nil
}
