//go:build !linux

package proc

import (
	"errors"
	"syscall"
	"time"
)

// errNotLinux is why the benchmark cannot be run here.
var errNotLinux = errors.New("the benchmark asks Linux for the CPU time of processes: run it there")

func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func CPUTime(int) (time.Duration, error) { return 0, errNotLinux }

func ResidentBytes(int) (int64, error) { return 0, errNotLinux }

func Monotonic() int64 { return time.Now().UnixNano() }

func OpenFiles(uint64) error { return errNotLinux }

func Child(int, string) int { return 0 }

func MachineTime() (time.Duration, error) { return 0, errNotLinux }

func LoadAverage() (float64, error) { return 0, errNotLinux }

func SleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
