// Command weir is the LLM gateway: it decides, Envoy carries the bytes.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/internal/redisconn"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	redisconn.LogTo(slog.New(slog.DiscardHandler)) // run has a log of its own; errors are told either way
	err := root().ExecuteContext(ctx)
	stop()
	var quiet quietError
	switch {
	case err == nil:
	case errors.As(err, &quiet):
		os.Exit(max(1, quiet.code))
	default:
		fmt.Fprintf(os.Stderr, "weir: %v\n", err)
		os.Exit(1)
	}
}

// quietError ends the program with an exit code, 1 where it has none, after everything has been said.
type quietError struct{ code int }

func (quietError) Error() string { return "failed" }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "weir",
		Short:         "An LLM gateway: Envoy carries the bytes, Go decides",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(runCommand(), serveCommand(), bootstrapCommand(), controlCommand(), validateCommand(), diffCommand(), simCommand(), simulateCommand(), keysCommand(), usageCommand(), explainCommand(), statusCommand(), topCommand(), cacheCommand(), sessionsCommand(), envoyCommand(), versionCommand())
	for _, sub := range c.Commands() {
		bindEnv(sub)
	}
	return c
}
