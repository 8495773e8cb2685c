package envoy

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// helperVariable makes the test binary play another process (see runHelper).
const helperVariable = "WEIR_ENVOY_TEST_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		if err := runHelper(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runHelper is what the re-executed test binary does:
//
//	ensure     calls Ensure and prints the path
//	supervise  supervises an Envoy with the bootstrap and directory given by environment variables,
//	           prints its process id, and waits for a signal
func runHelper(mode string) error {
	ctx := context.Background()
	switch mode {
	case "ensure":
		bin, err := Ensure(ctx, FindOptions{})
		if err != nil {
			return err
		}
		fmt.Println(bin.Path)
	case "supervise":
		dir := os.Getenv("HELPER_DIR")
		boot, err := os.ReadFile(os.Getenv("HELPER_BOOTSTRAP"))
		if err != nil {
			return err
		}
		sup, err := NewSupervisor(SupervisorOptions{
			Binary: os.Getenv("HELPER_BINARY"), Bootstrap: boot, RuntimeDir: dir,
			AdminSocket: os.Getenv("HELPER_ADMIN"), Concurrency: 1,
		})
		if err != nil {
			return err
		}
		if err := sup.Start(ctx); err != nil {
			return err
		}
		fmt.Println(sup.PID())
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
		return sup.Stop(context.Background())
	}
	return nil
}
