package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/envoy"
	"github.com/weir-dev/weir/extproc/identity"
)

// version is set by the linker for releases.
var version = ""

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) {
			fmt.Fprintf(c.OutOrStdout(), "weir %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v = "devel-" + s.Value[:12]
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return v
}

func keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Work with API keys"}
	c.AddCommand(&cobra.Command{
		Use:   "hash",
		Short: "Read an API key from standard input and print the hash for APIKey.spec.hash",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 64<<10)).ReadString('\n')
			if err != nil && err != io.EOF {
				return fmt.Errorf("cannot read the key: %w", err)
			}
			key := strings.TrimSpace(line)
			if err := identity.ValidateKey(key); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), identity.HashKey(key))
			return nil
		},
	})
	return c
}

func envoyCommand() *cobra.Command {
	c := &cobra.Command{Use: "envoy", Short: "Work with the Envoy binary"}
	c.AddCommand(&cobra.Command{
		Use:   "fetch",
		Short: "Find Envoy, or fetch it into the cache, and print its path",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			bin, err := envoy.Ensure(c.Context(), envoy.FindOptions{Progress: os.Stderr})
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), bin.Path)
			return nil
		},
	})
	return c
}
