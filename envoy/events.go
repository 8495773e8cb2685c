package envoy

import (
	"fmt"
	"syscall"
	"time"
)

// Event is something that happened to the supervised process: Started, Ready, Exited or Restarting.
type Event interface {
	// String is the event as a sentence for a person.
	String() string
}

// Started says that a process was started.
type Started struct{ PID int }

// Ready says that the process has its configuration and serves.
type Ready struct{ PID int }

// Exited says that the process ended. Either Signal is set, or Code is its exit code.
type Exited struct {
	PID    int
	Code   int
	Signal syscall.Signal
	// Reason is what the process's last log lines explain, in a sentence, or empty.
	Reason string
	// Expected is true when Stop ended it.
	Expected bool
}

// Restarting says that the next process starts after In; Attempt counts the deaths in a row.
type Restarting struct {
	In      time.Duration
	Attempt int
}

func (e Started) String() string { return fmt.Sprintf("Envoy started (pid %d)", e.PID) }
func (e Ready) String() string   { return fmt.Sprintf("Envoy is ready (pid %d)", e.PID) }

func (e Exited) String() string {
	s := fmt.Sprintf("Envoy (pid %d) ended with exit code %d", e.PID, e.Code)
	if e.Signal != 0 {
		s = fmt.Sprintf("Envoy (pid %d) was ended by signal %d (%s)", e.PID, int(e.Signal), e.Signal)
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

func (e Restarting) String() string {
	return fmt.Sprintf("Envoy starts again in %v (death %d in a row)", e.In, e.Attempt)
}
