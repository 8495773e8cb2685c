package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/envoy"
)

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
