//go:build !linux

package envoy

import "syscall"

// childAttributes put Envoy into its own process group, so that a terminal's Ctrl-C reaches Weir
// alone. Only Linux can have a child killed when its parent dies: elsewhere `kill -9` of Weir leaves
// Envoy running.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
