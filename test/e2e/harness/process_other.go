//go:build !linux

package harness

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// childAttributes give a process group of its own.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// descendants are the living processes below pid, with their program names.
func descendants(pid int) map[int]string {
	out, _ := exec.Command("ps", "-axo", "pid=,ppid=,comm=").Output()
	found := map[int]string{}
	for grown := true; grown; {
		grown = false
		for line := range strings.Lines(string(out)) {
			var id, parent int
			var name string
			if _, err := fmt.Sscan(line, &id, &parent, &name); err != nil || found[id] != "" {
				continue
			}
			if parent == pid || found[parent] != "" {
				found[id], grown = filepath.Base(name), true
			}
		}
	}
	return found
}
