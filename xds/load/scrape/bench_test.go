package scrape

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// servePages serves a vLLM page on a port that it prints, until its standard input ends.
func servePages() {
	l, err := net.Listen("tcp4", "0.0.0.0:0") // the benchmark knows it by many addresses of this machine
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	page := []byte(vllmPage(3, 5))
	fmt.Println(l.Addr())
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(page)))
			_, _ = w.Write(page)
		}))
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkThousandTargets reads 1,000 targets every 500 ms, each with a page of 20 KB and a connection of its own, and tells the
// CPU time of this process for each reading. The servers are in another process. The time per operation says nothing: it is what
// the interval makes it.
func BenchmarkThousandTargets(b *testing.B) {
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), pageServer+"=1")
	stdin, err := server.StdinPipe()
	must(b, err)
	stdout, err := server.StdoutPipe()
	must(b, err)
	must(b, server.Start())
	b.Cleanup(func() { _ = stdin.Close(); _ = server.Wait() })
	address, err := bufio.NewReader(stdout).ReadString('\n')
	must(b, err)
	_, port, err := net.SplitHostPort(strings.TrimSpace(address))
	must(b, err)

	const (
		count    = 1000
		interval = 500 * time.Millisecond
	)
	var readings atomic.Int64
	var failed atomic.Value
	enough := make(chan struct{}, 1)
	var goal atomic.Int64
	s := New(Options{Sink: func(r Reading) {
		if r.Err != nil {
			failed.Store(r.Err)
		}
		if readings.Add(1) == goal.Load() {
			enough <- struct{}{}
		}
	}})
	var targets []Target
	for i := range count {
		// All of 127.0.0.0/8 is this machine: each target is a host of its own to the client, with a connection of its own.
		host := fmt.Sprintf("127.1.%d.%d", i/250, 1+i%250)
		if runtime.GOOS != "linux" {
			host = "127.0.0.1"
		}
		targets = append(targets, Target{
			Pool: "p", Endpoint: strconv.Itoa(i), URL: "http://" + net.JoinHostPort(host, port) + "/metrics", Engine: vllm(b),
			Interval: interval, Timeout: 2 * time.Second,
		})
	}
	must(b, s.Set(targets))
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	goal.Store(2 * count) // connections are made, buffers are there
	go func() { defer close(done); s.Run(ctx) }()
	<-enough
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	first, cpu := readings.Load(), cpuTime(b)
	b.ResetTimer()
	goal.Store(first + int64(b.N) + 1)
	<-enough
	b.StopTimer()
	cpu = cpuTime(b) - cpu
	runtime.ReadMemStats(&after)
	n := float64(readings.Load() - first)
	cancel()
	<-done
	perReading := float64(cpu.Microseconds()) / n
	b.ReportMetric(perReading, "cpu-µs/reading")
	b.ReportMetric(perReading*count/interval.Seconds()/1e6*100, "%core/1000-targets")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/reading")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/reading")
	if err := failed.Load(); err != nil {
		b.Errorf("readings fail: %v", err)
	}
}

// cpuTime is what this process has used, in user mode and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
