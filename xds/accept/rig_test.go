package accept

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/extproc/identity"
	"github.com/weir-dev/weir/xds/compile"
	"github.com/weir-dev/weir/xds/source"
	"github.com/weir-dev/weir/xds/source/files"
)

// born is when the first object was created; each later one is a minute younger.
var born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// cluster is what an API server would hold.
type cluster struct {
	t       *testing.T
	objects map[source.ObjectRef]source.Object
	created int
	secrets map[source.SecretKey]source.Secret
	dir     string
	known   map[string]source.Object // by kind and spec: reading YAML through the schema takes its time
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, objects: map[source.ObjectRef]source.Object{}, secrets: map[source.SecretKey]source.Secret{}, dir: t.TempDir(), known: map[string]source.Object{}}
}

// apply creates or changes an object: "Route team-a/chat" with a spec.
func (c *cluster) apply(name, spec string) source.ObjectRef {
	c.t.Helper()
	kind, id, _ := strings.Cut(name, " ")
	namespace, short, _ := strings.Cut(id, "/")
	ref := source.ObjectRef{Kind: kind, Namespace: namespace, Name: short}
	o := c.load(kind, spec).DeepCopyObject().(source.Object)
	o.SetNamespace(namespace)
	o.SetName(short)
	if was := c.objects[ref]; was != nil {
		o.SetUID(was.GetUID())
		o.SetGeneration(was.GetGeneration() + 1)
		o.SetCreationTimestamp(was.GetCreationTimestamp())
	} else {
		c.created++
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", c.created)))
		o.SetGeneration(1)
		o.SetCreationTimestamp(metav1.NewTime(born.Add(time.Duration(c.created) * time.Minute)))
	}
	c.objects[ref] = o
	return ref
}

// load reads an object with its defaults.
func (c *cluster) load(kind, spec string) source.Object {
	c.t.Helper()
	if o := c.known[kind+spec]; o != nil {
		return o
	}
	text := fmt.Sprintf("apiVersion: weir.dev/v1alpha1\nkind: %s\nmetadata: {name: x}\nspec: %s\n", kind, spec)
	if err := os.WriteFile(filepath.Join(c.dir, "one.yaml"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	loaded, problems := files.Load(c.dir, func(string) (string, bool) { return "", false })
	for _, p := range problems {
		if p.Reason != source.ReasonSecretUnavailable && !strings.Contains(p.Field, "Ref") { // a folder has no Secrets
			c.t.Fatal(p)
		}
	}
	if loaded.Len() != 1 {
		c.t.Fatalf("%s with %s is %d objects: %v", kind, spec, loaded.Len(), problems)
	}
	c.known[kind+spec] = loaded.All()[0]
	return loaded.All()[0]
}

func (c *cluster) remove(ref source.ObjectRef) { delete(c.objects, ref) }

// secret writes the key "value" of a Secret; "" deletes it.
func (c *cluster) secret(namespace, name, value string) {
	key := secretKey(namespace, name)
	if value == "" {
		delete(c.secrets, key)
		return
	}
	c.secrets[key] = source.NewSecret(value)
}

// read is what a source tells: the objects, and those values that they refer to.
func (c *cluster) read() *source.Objects {
	out := source.NewObjects()
	for _, o := range c.objects {
		if err := out.Add(o); err != nil {
			c.t.Fatal(err)
		}
		for _, ref := range source.References(o) {
			if ref.Ref == nil {
				continue
			}
			key := source.SecretKeyOf(o.GetNamespace(), *ref.Ref)
			if value, ok := c.secrets[key]; ok {
				out.Secrets[key] = value
			}
		}
	}
	out.Sort()
	return out
}

// compiler compiles as a cluster's objects are, and counts how often.
func compiler(t testing.TB, calls *int) CompileFunc {
	t.Helper()
	dialects, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return func(objs *source.Objects) (*compile.Version, []source.Problem) {
		if calls != nil {
			*calls++
		}
		return compile.Compile(objs, compile.Options{Dialects: dialects, Keys: identity.Offline{}, ExtProcCluster: "weir", SystemCAs: "ca.pem", Lenient: true})
	}
}

// described is a result in one line: what is refused, and the generations of all that is served.
func described(r Result) string {
	var refused, served []string
	for ref, kept := range r.Refused {
		refused = append(refused, fmt.Sprintf("%s %s", ref, kept))
	}
	slices.Sort(refused)
	if r.Version == nil {
		return "nothing; refused: " + strings.Join(refused, ", ")
	}
	for _, o := range r.Objects.All() {
		served = append(served, fmt.Sprintf("%s:%d", source.RefOf(o), o.GetGeneration()))
	}
	return strings.Join(served, ", ") + "; refused: " + strings.Join(refused, ", ")
}

func errorsOf(r Result, ref source.ObjectRef) []string {
	var out []string
	for _, p := range r.Problems {
		if p.Object == ref && p.Severity == source.Error {
			out = append(out, p.Field+": "+p.Message)
		}
	}
	return out
}
