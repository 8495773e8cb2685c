package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/xds/source"
)

func keysRevokeCommand() *cobra.Command {
	var dir, namespace string
	var force bool
	c := &cobra.Command{
		Use:   "revoke NAME -f DIR",
		Short: "Disable an API key, at every gateway within a second",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := changeKeyFolder(c.Context(), dir, c.ErrOrStderr())
			if err != nil {
				return err
			}
			defer f.close()
			where, err := f.revoke(c.Context(), namespace, args[0], force)
			if err != nil {
				return err
			}
			fmt.Fprintf(f.err, "key %s/%s is disabled in %s\n", namespace, args[0], where)
			return nil
		},
	}
	folderFlag(c, &dir)
	namespaceFlag(c, &namespace)
	c.Flags().BoolVar(&force, "force", false, "end a key that Redis has lost, at every weir that still knows it")
	return c
}

// revoke disables a key and says where it is.
func (f *keyFolder) revoke(ctx context.Context, namespace, name string, force bool) (where string, err error) {
	if k := f.object(namespace, name); k != nil {
		path, err := f.path(k)
		if err != nil {
			return "", err
		}
		return path, f.edit(ctx, path, namespace, name, "disabled", true)
	}
	if !f.inRedis() {
		return "", f.noKey(namespace, name)
	}
	return "Redis", f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
		for {
			was, err := s.Get(ctx, namespace, name)
			if errors.Is(err, keystore.ErrNotFound) {
				if err = f.bury(ctx, s, namespace, name, force); !errors.Is(err, keystore.ErrChanged) {
					return err
				}
				continue
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

// bury ends a key that the store does not hold. ErrChanged: it may hold it now.
func (f *keyFolder) bury(ctx context.Context, s *keystore.Store, namespace, name string, force bool) error {
	lost, err := s.Lost(ctx)
	switch {
	case err != nil:
		return err
	case !lost:
		return f.noKey(namespace, name)
	case !force:
		return fmt.Errorf("Redis holds no key, so not %s/%s either; if it has lost its data, every weir that runs keeps the keys that it knows in force, "+
			"and this one ends with: weir keys revoke %s --namespace %s --force -f %s", namespace, name, name, namespace, f.dir)
	}
	if err = s.Bury(ctx, namespace, name); errors.Is(err, keystore.ErrNotFound) {
		return keystore.ErrChanged // somebody wrote a key meanwhile
	}
	return err
}

func (f *keyFolder) noKey(namespace, name string) error {
	for _, p := range f.problems {
		if p.Severity == source.Error && p.Object == (source.ObjectRef{Kind: "APIKey", Namespace: namespace, Name: name}) {
			return fmt.Errorf("the document of key %s/%s has an error and cannot be edited here (%s); a weir that runs since before keeps the key: "+
				"correct it, or write disabled: true into its spec", namespace, name, p)
		}
	}
	if err := f.needGateway(); err != nil {
		return err
	}
	return fmt.Errorf("there is no key %s/%s; see: weir keys list -f %s", namespace, name, f.dir)
}
