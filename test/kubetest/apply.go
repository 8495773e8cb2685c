package kubetest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ApplyOptions say how documents are applied. The zero value applies them as they are.
type ApplyOptions struct {
	// Namespace is that of objects of namespaced kinds that name none.
	Namespace string
	// DryRun asks the server to check everything, policies for admission included, and to keep nothing. Documents whose kind or
	// namespace is made by another document of the same call cannot be checked so.
	DryRun bool
	// Manager is the field manager, "kubetest" if empty.
	Manager string
	// Config is that of the one who applies, the administrator's if nil.
	Config *rest.Config
}

// Apply applies the objects of a multi-document YAML by server-side apply, namespaces and CustomResourceDefinitions first, and
// returns them as the server has them. It goes on after an error: the errors of all documents are in the one it returns.
func (c *Cluster) Apply(ctx context.Context, documents []byte, opts ApplyOptions) ([]*unstructured.Unstructured, error) {
	objects, err := decode(documents)
	if err != nil {
		return nil, err
	}
	by := client.Client(c.Client)
	if opts.Config != nil {
		if by, err = client.New(opts.Config, client.Options{Scheme: c.Client.Scheme()}); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, o := range objects {
		if err := c.apply(ctx, by, o, opts); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err))
		}
	}
	return objects, errors.Join(errs...)
}

func (c *Cluster) apply(ctx context.Context, by client.Client, o *unstructured.Unstructured, opts ApplyOptions) error {
	if o.GetNamespace() == "" && opts.Namespace != "" {
		namespaced, err := by.IsObjectNamespaced(o)
		if err != nil {
			return err
		}
		if namespaced {
			o.SetNamespace(opts.Namespace)
		}
	}
	apply := []client.ApplyOption{client.FieldOwner(cmp.Or(opts.Manager, "kubetest")), client.ForceOwnership}
	if opts.DryRun {
		apply = append(apply, client.DryRunAll)
	}
	if err := by.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), apply...); err != nil {
		return err
	}
	if isCRD(o) && !opts.DryRun {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: o.GetName()}}
		return c.awaitCRD(ctx, crd)
	}
	return nil
}

// ApplyFile applies a file's documents. Objects of namespaced kinds that name no namespace go to the one given.
func (c *Cluster) ApplyFile(t testing.TB, path, namespace string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := c.context()
	defer cancel()
	objects, err := c.Apply(ctx, text, ApplyOptions{Namespace: namespace})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return objects
}

// ApplyDir applies the documents of a folder's .yaml and .yml files, which are one set: what a file needs of another may be in a later one.
func (c *Cluster) ApplyDir(t testing.TB, dir, namespace string) []*unstructured.Unstructured {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, entry := range entries {
		if ext := filepath.Ext(entry.Name()); entry.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
		all.WriteString("\n---\n")
	}
	ctx, cancel := c.context()
	defer cancel()
	objects, err := c.Apply(ctx, all.Bytes(), ApplyOptions{Namespace: namespace})
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	if len(objects) == 0 {
		t.Fatalf("%s has no YAML documents", dir)
	}
	return objects
}

// decode reads the objects of a multi-document YAML, in the order in which they can be made.
func decode(documents []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(documents)))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if len(o.Object) == 0 {
			continue // only comments
		}
		if o.GetKind() == "" || o.GetAPIVersion() == "" {
			return nil, fmt.Errorf("document %d has no kind or no apiVersion", n)
		}
		if !o.IsList() {
			objects = append(objects, &o)
			continue
		}
		list, err := o.ToList()
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		for i := range list.Items {
			objects = append(objects, &list.Items[i])
		}
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return objects, nil
}

// rank puts what others need before them.
func rank(o *unstructured.Unstructured) int {
	switch {
	case isCRD(o):
		return 0
	case o.GetKind() == "Namespace" && !strings.Contains(o.GetAPIVersion(), "/"):
		return 1
	}
	return 2
}

func isCRD(o *unstructured.Unstructured) bool {
	return o.GroupVersionKind().Group == apiextensionsv1.GroupName && o.GetKind() == "CustomResourceDefinition"
}
