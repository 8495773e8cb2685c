// Need gets kube-apiserver and etcd for the tests, where they are missing, and prints their folder. `make need-kube` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/weir-dev/weir/test/kubetest/assets"
)

// lowPriority is the nice value of a build: what else the machine does goes first.
const lowPriority = 10

func main() {
	modules := flag.String("modules", "", "write test/kubetest/servers/go.mod and go.sum anew, for this `version` of Kubernetes, such as 1.36.3, and get nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *modules); err != nil {
		fmt.Fprintln(os.Stderr, "need:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, modules string) error {
	if modules != "" {
		return assets.WriteModules(ctx, filepath.FromSlash("test/kubetest/servers"), modules, os.Stderr)
	}
	// Linux gives it to a thread, and its children inherit it: the compilers, at last. Where it is not permitted, the build is
	// merely less polite.
	runtime.LockOSThread()
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, lowPriority)
	s, err := assets.Ensure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	fmt.Println(filepath.Dir(s.APIServer))
	return nil
}
