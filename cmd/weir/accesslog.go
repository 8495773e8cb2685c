package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/weir-dev/weir/usage/accesslog"
)

// lastLines is how long the lines that wait at the end may take to be written.
const lastLines = 2 * time.Second

// The values of --access-log.
const (
	accessAuto = "auto"
	accessJSON = "json"
	accessText = "text"
	accessOff  = "off"
)

// openAccessLog begins to write a line for each request. It comes before the desk, so that it outlives it.
func (g *gateway) openAccessLog() error {
	how := g.opts.accessLog
	if how == accessAuto {
		how = accessJSON
		if f, ok := g.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			how = accessText
		}
	}
	switch how {
	case accessOff:
		return nil
	case accessJSON, accessText:
	default:
		return fmt.Errorf("--access-log %q: use auto, json, text or off", how)
	}
	// Who reads the lines may end before the gateway does. Without this, the next line would end the gateway.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	g.accessLog = accesslog.New(accesslog.Options{Out: g.out, Text: how == accessText, Registry: g.registry})
	g.finished = append(g.finished, g.accessLog.Finished)
	g.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastLines)
		defer cancel()
		g.accessLog.Close(ctx)
	})
	return nil
}
