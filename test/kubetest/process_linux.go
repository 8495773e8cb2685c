package kubetest

import (
	"runtime"
	"syscall"
)

// sysProcAttr puts a server into a process group of its own, which a terminal's signals do not reach, and lets it die with the
// test binary.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func lockThread() (unlock func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}
