package envoy

import "syscall"

// childAttributes put Envoy into its own process group, so that a terminal's Ctrl-C reaches Weir
// alone, which then drains; and have the kernel kill Envoy when Weir dies without doing so itself.
// The kernel ties the latter to the thread that forks and not to the process (prctl(2),
// PR_SET_PDEATHSIG): that thread has to live as long as the child.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
