//go:build !linux

package redistest

import "syscall"

// sysProcAttr puts the server into a process group of its own.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func lockThread() (unlock func()) { return func() {} }
