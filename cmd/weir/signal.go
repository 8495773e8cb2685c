package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyAgain tells of the next signal to stop, after the first has been taken.
func notifyAgain() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}
