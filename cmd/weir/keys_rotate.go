package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity/keystore"
)

func keysRotateCommand() *cobra.Command {
	var dir, namespace, name, grace, expires, out string
	c := &cobra.Command{
		Use:   "rotate NAME -f DIR",
		Short: "Make a successor of an API key and print it, once; the old key ends after a while",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := changeKeyFolder(c.Context(), dir, c.ErrOrStderr())
			if err != nil {
				return err
			}
			defer f.close()
			if err := f.needPepper(); err != nil {
				return err
			}
			wait, err := parseLife(grace)
			if err != nil {
				return fmt.Errorf("--grace: %w", err)
			}
			now := time.Now()
			old, err := f.find(c.Context(), namespace, args[0])
			if err != nil {
				return err
			}
			if old.record.Disabled {
				return fmt.Errorf("key %s is disabled, so nobody needs a successor; make a new one with: weir keys create", old.record.ID())
			}
			next := old.record
			next.Name = name
			next.Created = now.UTC().Truncate(time.Second)
			if next.Name == "" {
				if next.Name, err = f.freeName(c.Context(), namespace, args[0]); err != nil {
					return err
				}
			}
			// How long the old key was meant to live is not known, so that the new one never ends must be somebody's wish.
			if !old.record.ExpiresAt.IsZero() && expires == "" {
				return fmt.Errorf("key %s ends at %s; say with --expires when its successor ends: a time to live (90d), a time or never",
					old.record.ID(), old.record.ExpiresAt.Format(time.RFC3339))
			}
			if next.ExpiresAt, err = parseExpiry(expires, now); err != nil {
				return err
			}
			key, err := f.newKey(&next)
			if err != nil {
				return err
			}
			until := now.Add(wait).UTC().Truncate(time.Second)
			if !old.record.ExpiresAt.IsZero() && old.record.ExpiresAt.Before(until) {
				until = old.record.ExpiresAt
			}
			where, err := f.rotate(c.Context(), old, next, until, out)
			if err != nil {
				return err
			}
			fmt.Fprintf(f.err, "made key %s in %s; %s ends at %s. The new key follows and is kept nowhere\n",
				next.ID(), where, old.record.ID(), until.Format(time.RFC3339))
			fmt.Fprintln(c.OutOrStdout(), key)
			return nil
		},
	}
	folderFlag(c, &dir)
	namespaceFlag(c, &namespace)
	f := c.Flags()
	f.StringVar(&name, "name", "", "name of the successor (default: NAME with the next free number)")
	f.StringVar(&grace, "grace", "24h", "how long the old key stays valid: 24h, 7d, 0s")
	f.StringVar(&expires, "expires", "", "when the new key ends: a time to live (90d, 12h), a day (2027-01-31: as it begins, in UTC), a time (2027-01-31T12:00:00Z) or never; needed where the old one ends")
	f.StringVar(&out, "out", "", "file for the new APIKey document (default: keys/NAME.yaml in the folder)")
	return c
}

// foundKey is a key, wherever it is.
type foundKey struct {
	record keystore.Record
	object *v1alpha1.APIKey // nil for a stored key
	stored keystore.Stored
}

func (f *keyFolder) find(ctx context.Context, namespace, name string) (foundKey, error) {
	if k := f.object(namespace, name); k != nil {
		return foundKey{record: recordOf(k), object: k}, nil
	}
	if !f.inRedis() {
		return foundKey{}, f.noKey(namespace, name)
	}
	var out foundKey
	err := f.withStore(ctx, func(ctx context.Context, s *keystore.Store) (err error) {
		out.stored, err = s.Get(ctx, namespace, name)
		out.record = out.stored.Record
		return err
	})
	if errors.Is(err, keystore.ErrNotFound) {
		err = f.noKey(namespace, name)
	}
	return out, err
}

// recordOf writes a document as a record.
func recordOf(k *v1alpha1.APIKey) keystore.Record {
	r := keystore.Record{
		Namespace: k.Namespace, Name: k.Name, Consumer: string(k.Spec.Consumer), Hash: k.Spec.Hash, Prefix: k.Spec.Prefix,
		Disabled: k.Spec.Disabled, AllowedCIDRs: k.Spec.AllowedCIDRs, RequestsPerMinute: k.Spec.RequestsPerMinute, Scopes: k.Spec.Scopes,
	}
	for _, m := range k.Spec.AllowedModels {
		r.AllowedModels = append(r.AllowedModels, string(m))
	}
	if k.Spec.ExpiresAt != nil {
		r.ExpiresAt = k.Spec.ExpiresAt.Time
	}
	return r
}

// rotate stores the successor and ends the old key at the time given. The successor stays where the old one is.
func (f *keyFolder) rotate(ctx context.Context, old foundKey, next keystore.Record, until time.Time, out string) (where string, err error) {
	document, err := f.check(&next)
	if err != nil {
		return "", err
	}
	if old.object == nil {
		if out != "" {
			return "", errOutWithRedis
		}
		ended := old.record
		ended.ExpiresAt = until
		return "Redis", f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
			err := s.Write(ctx, keystore.Change{Record: next}, keystore.Change{Record: ended, Was: &old.stored})
			if errors.Is(err, keystore.ErrExists) {
				return fmt.Errorf("there is an API key %s already; try again, or give the successor another name with --name", next.ID())
			}
			return err
		})
	}
	path, err := f.path(old.object)
	if err != nil {
		return "", err
	}
	// The successor first: between the two both are valid.
	if where, err = f.write(&next, document, out); err != nil {
		return "", err
	}
	if err := f.edit(ctx, path, old.record.Namespace, old.record.Name, "expiresAt", until.Format(time.RFC3339)); err != nil {
		return "", fmt.Errorf("the successor is in %s, but the old key stays as it is: %w", where, err)
	}
	return where, nil
}

var numbered = regexp.MustCompile(`^(.*)-([0-9]{1,6})$`)

// freeName counts up from a name: bot, bot-2, bot-3.
func (f *keyFolder) freeName(ctx context.Context, namespace, name string) (string, error) {
	taken := map[string]bool{}
	for _, k := range f.objs.APIKeys {
		taken[k.Namespace+"/"+k.Name] = true
	}
	if f.inRedis() {
		if err := f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
			list, _, err := s.List(ctx)
			for _, k := range list {
				taken[k.ID()] = true
			}
			return err
		}); err != nil {
			return "", err
		}
	}
	base, n := name, 1
	if m := numbered.FindStringSubmatch(name); m != nil {
		base = m[1]
		n, _ = strconv.Atoi(m[2]) // six digits
	}
	for {
		n++
		if next := base + "-" + strconv.Itoa(n); !taken[namespace+"/"+next] {
			return next, nil
		}
	}
}
