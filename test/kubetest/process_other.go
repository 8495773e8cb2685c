//go:build !linux

package kubetest

import "syscall"

// sysProcAttr puts a server into a process group of its own, which a terminal's signals do not reach.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func lockThread() (unlock func()) { return func() {} }
