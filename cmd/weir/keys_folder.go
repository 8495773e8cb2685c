package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// keyFolder is a folder with objects as `weir keys` sees it.
type keyFolder struct {
	dir    string
	objs   *source.Objects
	pepper *identity.Pepper // nil where the gateway has none
	err    io.Writer        // for people
}

// openKeyFolder reads a folder. Problems are told and do not stop: a key must be revocable whatever else is wrong.
func openKeyFolder(dir string, stderr io.Writer) (*keyFolder, error) {
	objs, problems := files.Load(dir, os.LookupEnv)
	for _, p := range problems {
		fmt.Fprintln(stderr, p)
	}
	if source.HasErrors(problems) {
		fmt.Fprintf(stderr, "%s has errors; a running weir takes no change over until they are corrected\n", dir)
	}
	if len(objs.Gateways) == 0 {
		return nil, fmt.Errorf("%s holds no LLMGateway, which says where keys are kept; give the folder that weir serves with -f", dir)
	}
	f := &keyFolder{dir: dir, objs: objs, err: stderr}
	g := objs.Gateways[0]
	if ref := g.Spec.Authentication.KeyPepperRef; ref != nil {
		secret, ok := objs.Secrets[source.SecretKeyOf(g.Namespace, *ref)]
		if !ok {
			return nil, fmt.Errorf("LLMGateway %s/%s: spec.authentication.keyPepperRef: the pepper cannot be read, and keys are made with it", g.Namespace, g.Name)
		}
		var err error
		if f.pepper, err = identity.NewPepper([]byte(secret.Reveal())); err != nil {
			return nil, fmt.Errorf("LLMGateway %s/%s: spec.authentication.keyPepperRef: %w", g.Namespace, g.Name, err)
		}
	}
	return f, nil
}

// hash makes what is stored of a key, as the gateway wants it.
func (f *keyFolder) hash(key string) string {
	if f.pepper != nil {
		return f.pepper.HashKey(key)
	}
	return identity.HashKey(key)
}

func (f *keyFolder) hasConsumer(namespace, name string) bool {
	for _, c := range f.objs.Consumers {
		if c.Namespace == namespace && c.Name == name {
			return true
		}
	}
	return false
}

// object finds an APIKey document, nil where there is none.
func (f *keyFolder) object(namespace, name string) *v1alpha1.APIKey {
	for _, k := range f.objs.APIKeys {
		if k.Namespace == namespace && k.Name == name {
			return k
		}
	}
	return nil
}

// path of the document that holds an object.
func (f *keyFolder) path(k *v1alpha1.APIKey) (string, error) {
	origin := f.objs.Origins[source.ObjectRef{Kind: "APIKey", Namespace: k.Namespace, Name: k.Name}]
	if origin == nil {
		return "", fmt.Errorf("APIKey %s/%s is in no file", k.Namespace, k.Name)
	}
	if info, err := os.Stat(f.dir); err == nil && !info.IsDir() {
		return f.dir, nil
	}
	return filepath.Join(f.dir, filepath.FromSlash(origin.File)), nil
}

// inRedis says whether the gateway keeps keys in Redis.
func (f *keyFolder) inRedis() bool {
	return f.objs.Gateways[0].Spec.Authentication.KeyStore == v1alpha1.KeysRedis
}

// withStore gives do the key store in Redis.
func (f *keyFolder) withStore(ctx context.Context, do func(context.Context, *keystore.Store) error) error {
	shared, err := f.shared()
	if err != nil {
		return err
	}
	conn, err := redisconn.Open(shared.Redis, redisconn.Options{})
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(ctx, keystore.Open(conn, shared.KeyPrefix))
}

// patience is how long a person waits for one command, where a request waits for a fraction of a second.
const patience = 2 * time.Second

// shared resolves how Redis is reached. Only the gateways are compiled, so that what is wrong with a route is no obstacle.
func (f *keyFolder) shared() (*compile.Shared, error) {
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		return nil, err
	}
	only := *f.objs
	only.Backends, only.Routes, only.Consumers, only.APIKeys, only.JWTIssuers, only.LimitPolicies, only.Budgets = nil, nil, nil, nil, nil, nil, nil
	v, problems := compile.Compile(&only, compileOptions(dialects, identity.Offline{}))
	if v == nil || v.Shared == nil {
		for _, p := range problems {
			fmt.Fprintln(f.err, p)
		}
		return nil, errors.New("the shared state that holds the keys cannot be reached as it is described; see above")
	}
	out := *v.Shared
	out.Redis.Timeout = max(out.Redis.Timeout, patience)
	return &out, nil
}
