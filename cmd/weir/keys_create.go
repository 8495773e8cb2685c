package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v3"

	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

func keysCreateCommand() *cobra.Command {
	var dir, namespace, out string
	var flags keyFlags
	c := &cobra.Command{
		Use:   "create NAME --consumer CONSUMER -f DIR",
		Short: "Make a new API key and print it, once",
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
			r, err := flags.record(namespace, args[0], time.Now())
			if err != nil {
				return err
			}
			if !f.hasConsumer(r.Namespace, r.Consumer) {
				return fmt.Errorf("there is no Consumer %s/%s in %s; create it or correct --consumer and --namespace", r.Namespace, r.Consumer, dir)
			}
			key, err := f.newKey(&r)
			if err != nil {
				return err
			}
			where, err := f.create(c.Context(), r, out)
			if err != nil {
				return err
			}
			fmt.Fprintf(f.err, "made key %s for consumer %s in %s; the key itself follows and is kept nowhere\n", r.ID(), r.Consumer, where)
			fmt.Fprintln(c.OutOrStdout(), key)
			return nil
		},
	}
	folderFlag(c, &dir)
	namespaceFlag(c, &namespace)
	flags.bind(c)
	c.Flags().StringVar(&out, "out", "", "file for the APIKey document (default: keys/NAME.yaml in the folder)")
	return c
}

// newKey makes a key and puts its hash and prefix into the record.
func (f *keyFolder) newKey(r *keystore.Record) (string, error) {
	key, prefix, err := identity.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	r.Prefix, r.Hash = prefix, f.hash(key)
	return key, nil
}

var errOutWithRedis = errors.New("--out is for keys in documents, and this one is kept in Redis (spec.authentication.keyStore)")

// create stores a new key and says where. out is a file for the document, "" for the usual one.
func (f *keyFolder) create(ctx context.Context, r keystore.Record, out string) (where string, err error) {
	document, err := f.check(&r)
	if err != nil {
		return "", err
	}
	if !f.inRedis() {
		return f.write(&r, document, out)
	}
	if out != "" {
		return "", errOutWithRedis
	}
	return "Redis", f.withStore(ctx, func(ctx context.Context, s *keystore.Store) error {
		err := s.Write(ctx, keystore.Change{Record: r})
		if errors.Is(err, keystore.ErrExists) {
			return errTaken(&r)
		}
		return err
	})
}

func errTaken(r *keystore.Record) error {
	return fmt.Errorf("there is an API key %s already; choose another name, or use: weir keys rotate %s", r.ID(), r.Name)
}

// check holds a new key to what an APIKey document must be, wherever it is stored, and makes the document.
func (f *keyFolder) check(r *keystore.Record) ([]byte, error) {
	if f.object(r.Namespace, r.Name) != nil {
		return nil, errTaken(r)
	}
	document, err := keyDocument(r)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "weir-key-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "key.yaml"), document, 0o600); err != nil {
		return nil, err
	}
	_, problems := files.Load(dir, os.LookupEnv)
	for _, p := range problems {
		if p.Severity == source.Error {
			return nil, fmt.Errorf("the key cannot be made: %s: %s", p.Field, p.Message)
		}
	}
	return document, nil
}

// write puts the document into a new file.
func (f *keyFolder) write(r *keystore.Record, document []byte, out string) (string, error) {
	info, err := os.Stat(f.dir)
	if err != nil {
		return "", err
	}
	switch {
	case out != "":
	case !info.IsDir():
		return "", fmt.Errorf("%s is a file; say with --out where the APIKey document is to go, or give the folder with -f", f.dir)
	case r.Namespace == "default":
		out = filepath.Join(f.dir, "keys", r.Name+".yaml")
	default:
		out = filepath.Join(f.dir, "keys", r.Namespace+"."+r.Name+".yaml")
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	// Readable for others, as documents are: weir may run as another user, and the hash of a random key tells nothing.
	if err := createFile(out, document, 0o644); err != nil {
		return "", err
	}
	if there, err := os.ReadFile(out); err != nil || !bytes.Equal(there, document) {
		return "", fmt.Errorf("%s is not what was written there (%v): something else changes the folder at the same time; see to that, and try again with another name", out, err)
	}
	if inside, err := filepath.Rel(f.dir, out); info.IsDir() && (err != nil || strings.HasPrefix(inside, "..")) {
		fmt.Fprintf(f.err, "%s is not below %s: the key is valid once it is moved there\n", out, f.dir)
	}
	return out, nil
}

// keyDocument writes an APIKey.
func keyDocument(r *keystore.Record) ([]byte, error) {
	type meta struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace,omitempty"`
	}
	type spec struct {
		Consumer          string   `yaml:"consumer"`
		Hash              string   `yaml:"hash"`
		Prefix            string   `yaml:"prefix,omitempty"`
		ExpiresAt         string   `yaml:"expiresAt,omitempty"`
		AllowedModels     []string `yaml:"allowedModels,omitempty,flow"`
		AllowedCIDRs      []string `yaml:"allowedCIDRs,omitempty,flow"`
		RequestsPerMinute int64    `yaml:"requestsPerMinute,omitempty"`
		Scopes            []string `yaml:"scopes,omitempty,flow"`
	}
	doc := struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   meta   `yaml:"metadata"`
		Spec       spec   `yaml:"spec"`
	}{"weir.dev/v1alpha1", "APIKey", meta{Name: r.Name}, spec{
		Consumer: r.Consumer, Hash: r.Hash, Prefix: r.Prefix, AllowedModels: r.AllowedModels,
		AllowedCIDRs: r.AllowedCIDRs, RequestsPerMinute: r.RequestsPerMinute, Scopes: r.Scopes,
	}}
	if r.Namespace != "default" {
		doc.Metadata.Namespace = r.Namespace
	}
	if !r.ExpiresAt.IsZero() {
		doc.Spec.ExpiresAt = r.ExpiresAt.UTC().Format(time.RFC3339)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by `weir keys` on %s. The key itself is kept nowhere.\n", r.Created.Format(time.DateOnly))
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}
