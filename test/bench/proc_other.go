//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

// errNotLinux is why the benchmark cannot be run here.
var errNotLinux = errors.New("the benchmark asks Linux for the CPU time of processes: run it there")

func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func cpuTime(int) (time.Duration, error) { return 0, errNotLinux }

func residentBytes(int) (int64, error) { return 0, errNotLinux }

func monotonic() int64 { return time.Now().UnixNano() }

func openFiles() error { return errNotLinux }

func child(int, string) int { return 0 }

func machineTime() (time.Duration, error) { return 0, errNotLinux }

func loadAverage() (float64, error) { return 0, errNotLinux }

func sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
