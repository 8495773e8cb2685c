package proc

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

// tick is the unit of CPU time in /proc/stat: USER_HZ, which is 100 on every architecture that Go runs on.
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

// CPUTime is the CPU time that a process has used, in user and in kernel mode, threads that have ended included. Its
// resolution is a nanosecond: it is the clock of clock_getcpuclockid(3), not /proc/PID/stat.
func CPUTime(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED of the kernel's posix-timers
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &ts); err != nil {
		return 0, fmt.Errorf("the CPU time of process %d cannot be read: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// ResidentBytes is the memory of a process that is not swapped out or only reserved.
func ResidentBytes(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm cannot be read: %q", pid, text)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// Monotonic is the time in nanoseconds of the clock that all processes of the machine share.
func Monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it fails for clocks that there are not
	return ts.Nano()
}

// OpenFiles raises how many files this process and its children may have open as far as it may, and fails where that are fewer than need.
func OpenFiles(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < need {
		return fmt.Errorf("at most %d open files are allowed (ulimit -Hn), and %d are needed", limit.Max, need)
	}
	// Also where Go has raised it at the start: children would get the old limit.
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// Child is the process of a parent whose name has a prefix; 0 where there is none.
func Child(parent int, prefix string) int {
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

// MachineTime is the CPU time that all processes of the machine have used together, that of a hypervisor which took
// the CPU away included, but not that of interrupts, which no process is charged for.
func MachineTime() (time.Duration, error) {
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

// LoadAverage is that of the last minute.
func LoadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}

// SleepUntil blocks the calling thread.
func SleepUntil(t time.Time) {
	// The kernel may otherwise wake a thread 50 us late, to save energy.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // a kernel that refuses is late, and that is measured
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil) // a signal ends it early: then once more
	}
}
