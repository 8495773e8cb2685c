package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/identity"
)

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
