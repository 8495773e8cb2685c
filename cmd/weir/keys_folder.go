package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/extproc/identity/keystore"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// keyFolder is a folder with objects as `weir keys` sees it. What is wrong in it is no obstacle where it can be helped: a key must
// be revocable whatever else there is.
type keyFolder struct {
	dir      string
	objs     *source.Objects
	problems []source.Problem // of the folder
	pepper   *identity.Pepper // set by needPepper; nil where the gateway has none
	err      io.Writer        // for people
	lock     *folderLock      // nil for commands that only read
}

// openKeyFolder reads a folder.
func openKeyFolder(dir string, stderr io.Writer) *keyFolder {
	objs, problems := files.Load(dir, os.LookupEnv)
	return &keyFolder{dir: dir, objs: objs, problems: problems, err: stderr}
}

// changeKeyFolder reads a folder that is to be changed. Until close, no other `weir keys` changes documents in it; keys in Redis
// need no lock.
func changeKeyFolder(ctx context.Context, dir string, stderr io.Writer) (*keyFolder, error) {
	lock, err := lockFolderOf(ctx, dir, stderr)
	if err != nil {
		return nil, err
	}
	f := openKeyFolder(dir, stderr)
	if f.inRedis() {
		lock.release()
	}
	f.lock = lock
	return f, nil
}

// close lets others change the folder, and tells in one sentence if a weir could not load it.
func (f *keyFolder) close() {
	f.lock.release()
	f.warn()
}

func (f *keyFolder) warn() {
	var unset []string
	var others []source.Problem
	for _, p := range f.problems {
		switch {
		case p.Severity != source.Error:
		case strings.HasSuffix(p.Field, ".env"): // the environment of the weir that runs is another one
			unset = append(unset, p.Message)
		default:
			others = append(others, p)
		}
	}
	switch {
	case len(others) > 0:
		fmt.Fprintf(f.err, "%s has errors (%d, the first: %s); a running weir takes no change over until they are corrected, see: weir validate -f %s\n",
			f.dir, len(others), others[0], f.dir)
	case len(unset) > 0:
		slices.Sort(unset)
		unset = slices.Compact(unset)
		more := ""
		if len(unset) > 1 {
			more = fmt.Sprintf(", and %d more like it", len(unset)-1)
		}
		fmt.Fprintf(f.err, "%s can be served only with an environment that this shell lacks (%s%s)\n", f.dir, unset[0], more)
	}
}

// needGateway says what is wrong where no LLMGateway was found.
func (f *keyFolder) needGateway() error {
	if len(f.objs.Gateways) > 0 {
		return nil
	}
	return fmt.Errorf("%s holds no LLMGateway, which says where keys are kept; give the folder that weir serves with -f", f.dir)
}

// needPepper reads the gateway's pepper, which only those need who make hashes.
func (f *keyFolder) needPepper() error {
	if err := f.needGateway(); err != nil {
		return err
	}
	g := f.objs.Gateways[0]
	ref := g.Spec.Authentication.KeyPepperRef
	if ref == nil {
		return nil
	}
	const field = "spec.authentication.keyPepperRef"
	secret, ok := f.objs.Secrets[source.SecretKeyOf(g.Namespace, *ref)]
	if !ok {
		missing := f.problemAt(source.ObjectRef{Kind: "LLMGateway", Namespace: g.Namespace, Name: g.Name}, field)
		return fmt.Errorf("LLMGateway %s/%s: %s: the pepper cannot be read, and keys are made with it: %s", g.Namespace, g.Name, field, missing)
	}
	var err error
	if f.pepper, err = identity.NewPepper([]byte(secret.Reveal())); err != nil {
		return fmt.Errorf("LLMGateway %s/%s: %s: %w", g.Namespace, g.Name, field, err)
	}
	return nil
}

// problemAt finds what reading the folder said about a field, "" where nothing.
func (f *keyFolder) problemAt(ref source.ObjectRef, field string) string {
	for _, p := range f.problems {
		if p.Object == ref && strings.HasPrefix(p.Field, field) {
			return p.Message
		}
	}
	return ""
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
	return len(f.objs.Gateways) > 0 && f.objs.Gateways[0].Spec.Authentication.KeyStore == v1alpha1.KeysRedis
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

// shared resolves how Redis is reached. What is wrong with a route, or which secret else is missing, is no obstacle.
func (f *keyFolder) shared() (*compile.Shared, error) {
	settings, err := settingsOf(f.objs, f.dir)
	if err != nil {
		var p problemError
		if errors.As(err, &p) {
			if cause := f.problemAt(p.Object, p.Field); cause != "" {
				return nil, fmt.Errorf("%w: %s", err, cause)
			}
		}
		return nil, err
	}
	if settings.Shared == nil {
		return nil, fmt.Errorf("the LLMGateway in %s has spec.authentication.keyStore Redis and no spec.sharedState, so it does not say where Redis is", f.dir)
	}
	out := *settings.Shared
	out.Redis.Timeout = max(out.Redis.Timeout, patience)
	return &out, nil
}
