package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of CPU time in /proc: USER_HZ, which is 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// childAttributes give a process group of its own, and death when this process dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// procStat reads /proc/PID/stat from the third field on: state, parent and so forth (proc(5)), and the name.
func procStat(pid int) (name string, fields []string, _ error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", nil, err
	}
	// pid (name) state ...; the name may hold anything.
	from, to := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if from < 0 || to < from {
		return "", nil, fmt.Errorf("/proc/%d/stat cannot be read: %q", pid, text)
	}
	return string(text[from+1 : to]), strings.Fields(string(text[to+1:])), nil
}

// cpuTime is the CPU time that a process has used, in user and in kernel mode. Its resolution is a tick.
func cpuTime(pid int) (time.Duration, error) {
	_, f, err := procStat(pid)
	if err != nil {
		return 0, err
	}
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(f)+2)
	}
	user, userErr := strconv.ParseInt(f[11], 10, 64) // field 14
	system, systemErr := strconv.ParseInt(f[12], 10, 64)
	if userErr != nil || systemErr != nil {
		return 0, fmt.Errorf("/proc/%d/stat has no CPU time: %q", pid, f)
	}
	return time.Duration(user+system) * tick, nil
}

// child is the process of a parent whose name has a prefix; 0 where there is none.
func child(parent int, prefix string) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		name, f, err := procStat(pid)
		if err == nil && len(f) > 1 && f[1] == strconv.Itoa(parent) && strings.HasPrefix(name, prefix) {
			return pid
		}
	}
	return 0
}

// machineTime is the CPU time that all processes of the machine have used together, that of a hypervisor which took
// the CPU away included, but not that of interrupts, which no process is charged for.
func machineTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat cannot be read: %q", line)
	}
	sum := int64(0)
	for _, i := range []int{1, 2, 3, 8} { // user, nice, system, steal
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat cannot be read: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// loadAverage is that of the last minute.
func loadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}

// sleepUntil blocks the calling thread.
func sleepUntil(t time.Time) {
	// The kernel may otherwise wake a thread 50 us late, to save energy.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // a kernel that refuses is late, and that is measured
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil) // a signal ends it early: then once more
	}
}
