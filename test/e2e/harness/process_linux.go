package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// childAttributes give a process group of its own, and death when the test process dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// descendants are the living processes below pid, with their program names.
func descendants(pid int) map[int]string {
	type entry struct {
		pid  int
		name string
	}
	children := map[int][]entry{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		// pid (name) state ppid ...; the name may hold anything. proc(5).
		open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
		var state string
		var parent int
		if _, err := fmt.Sscan(string(text[end+1:]), &state, &parent); err != nil || state == "Z" {
			continue
		}
		if id, err := strconv.Atoi(strings.TrimSpace(string(text[:open]))); err == nil {
			children[parent] = append(children[parent], entry{id, string(text[open+1 : end])})
		}
	}
	found := map[int]string{}
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, c := range children[queue[0]] {
			found[c.pid] = c.name
			queue = append(queue, c.pid)
		}
	}
	return found
}
