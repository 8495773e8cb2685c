package kubetest

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/deploy/crds"
)

// InstallCRDs installs the CustomResourceDefinitions of deploy/crds and returns when they are served. Start and Shared have done
// so; it is for a test that has emptied etcd.
func (c *Cluster) InstallCRDs() {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	if err := c.installCRDs(ctx); err != nil {
		c.t.Fatalf("Weir's CustomResourceDefinitions cannot be installed: %v", err)
	}
	c.servers.mu.Lock()
	c.servers.wiped = false
	c.servers.mu.Unlock()
}

func (c *Cluster) installCRDs(ctx context.Context) error {
	files, err := fs.Glob(crds.FS, "*.yaml")
	if err != nil {
		return err
	}
	installed := make([]*apiextensionsv1.CustomResourceDefinition, 0, len(files))
	for _, file := range files {
		text, err := crds.FS.ReadFile(file)
		if err != nil {
			return err
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(text, crd); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := c.Client.Create(ctx, crd); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		installed = append(installed, crd)
	}
	for _, crd := range installed {
		if err := c.awaitCRD(ctx, crd); err != nil {
			return err
		}
	}
	return nil
}

// awaitCRD returns when objects of a new CustomResourceDefinition can be made.
func (c *Cluster) awaitCRD(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	err := poll(ctx, func() error {
		if err := c.Client.Get(ctx, client.ObjectKeyFromObject(crd), crd); err != nil {
			return err
		}
		for _, condition := range crd.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("%s is not established: %v", crd.Name, crd.Status.Conditions)
	})
	if err != nil {
		return err
	}
	if err := c.age(ctx, crd); err != nil {
		return err
	}
	d, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return err
	}
	return poll(ctx, func() error {
		// What clients learn of kinds comes a moment after.
		list, err := d.ServerResourcesForGroupVersion(crd.Spec.Group + "/" + crd.Spec.Versions[0].Name)
		if err != nil {
			return err
		}
		for _, r := range list.APIResources {
			if r.Name == crd.Spec.Names.Plural {
				return nil
			}
		}
		return fmt.Errorf("the server does not name %s yet", crd.Name)
	})
}

// age makes a CustomResourceDefinition look older than it is. The API server lets the first objects of one that has been
// established for less than two seconds wait for two more, for the sake of other API servers, of which there are none here.
func (c *Cluster) age(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) error {
	old := crd.DeepCopy()
	for i := range crd.Status.Conditions {
		crd.Status.Conditions[i].LastTransitionTime = metav1.NewTime(crd.CreationTimestamp.Add(-time.Minute))
	}
	return c.Client.Status().Patch(ctx, crd, client.MergeFrom(old))
}

// poll asks until there is no error or ctx has ended, and then returns the last one.
func poll(ctx context.Context, ready func() error) error {
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond): // between two questions
		}
	}
}
