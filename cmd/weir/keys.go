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
	c := &cobra.Command{
		Use:   "keys",
		Short: "Make, revoke, rotate and list API keys",
		Long: "Make, revoke, rotate and list API keys, where the gateway of a folder keeps them: in APIKey documents of the folder, or in " +
			"Redis where LLMGateway spec.authentication.keyStore says so. A running weir takes a change over within a second. " +
			"A new key is printed once, on standard output; Weir keeps its hash.",
	}
	c.AddCommand(keysCreateCommand(), keysRevokeCommand(), keysRotateCommand(), keysListCommand(), keysHashCommand())
	return c
}

func keysHashCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "hash [-f DIR]",
		Short: "Read an API key from standard input and print the hash for APIKey.spec.hash",
		Long: "Read an API key from standard input and print the hash for APIKey.spec.hash. With -f the hash is made with the pepper of the " +
			"folder's gateway, where it has one.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 64<<10)).ReadString('\n')
			if err != nil && err != io.EOF {
				return fmt.Errorf("cannot read the key: %w", err)
			}
			key := strings.TrimSpace(line)
			if err := identity.ValidateKey(key); err != nil {
				return err
			}
			hash := identity.HashKey
			if dir != "" {
				f := openKeyFolder(dir, c.ErrOrStderr())
				defer f.close()
				if err := f.needPepper(); err != nil {
					return err
				}
				hash = f.hash
			}
			fmt.Fprintln(c.OutOrStdout(), hash(key))
			return nil
		},
	}
	c.Flags().StringVarP(&dir, "file", "f", "", "folder (or file) with Weir objects, for its gateway's pepper")
	return c
}

// folderFlag is the -f of the commands that work on a folder.
func folderFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVarP(dir, "file", "f", "deploy/local", "folder (or file) with Weir objects")
}

func namespaceFlag(c *cobra.Command, namespace *string) {
	c.Flags().StringVar(namespace, "namespace", "default", "namespace of the key")
}
