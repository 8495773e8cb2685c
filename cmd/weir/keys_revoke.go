package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/identity/keystore"
)

func keysRevokeCommand() *cobra.Command {
	var dir, namespace string
	c := &cobra.Command{
		Use:   "revoke NAME -f DIR",
		Short: "Disable an API key, at every gateway within a second",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := openKeyFolder(dir, c.ErrOrStderr())
			if err != nil {
				return err
			}
			where, err := f.revoke(c.Context(), namespace, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(f.err, "key %s/%s is disabled in %s\n", namespace, args[0], where)
			return nil
		},
	}
	folderFlag(c, &dir)
	namespaceFlag(c, &namespace)
	return c
}

// revoke disables a key and says where it is.
func (f *keyFolder) revoke(ctx context.Context, namespace, name string) (where string, err error) {
	if k := f.object(namespace, name); k != nil {
		path, err := f.path(k)
		if err != nil {
			return "", err
		}
		return path, editKey(path, namespace, name, "disabled", true)
	}
	if !f.inRedis() {
		return "", f.noKey(namespace, name)
	}
	return "Redis", f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
		for {
			was, err := s.Get(ctx, namespace, name)
			if errors.Is(err, keystore.ErrNotFound) {
				return f.noKey(namespace, name)
			}
			if err != nil || was.Disabled {
				return err
			}
			r := was.Record
			r.Disabled = true
			// Whoever changed it at the same time: it is to be disabled.
			if err = s.Write(ctx, keystore.Change{Record: r, Was: &was}); !errors.Is(err, keystore.ErrChanged) {
				return err
			}
		}
	})
}

func (f *keyFolder) noKey(namespace, name string) error {
	return fmt.Errorf("there is no key %s/%s; see: weir keys list -f %s", namespace, name, f.dir)
}
