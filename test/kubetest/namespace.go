package kubetest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// remove does what the namespace controller of a real cluster does: it deletes what is in a namespace, and the namespace.
func (c *Cluster) remove(ns *corev1.Namespace) error {
	c.repair()
	ctx, cancel := c.context()
	defer cancel()
	resources, err := c.namespaced()
	if err != nil {
		return err
	}
	all, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return err
	}
	for _, resource := range resources {
		if err := empty(ctx, all.Resource(resource).Namespace(ns.Name)); err != nil {
			return fmt.Errorf("%s: %w", resource.Resource, err)
		}
	}
	if err := client.IgnoreNotFound(c.Client.Delete(ctx, ns)); err != nil {
		return err
	}
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(ns), ns); err != nil {
		return client.IgnoreNotFound(err)
	}
	ns.Spec.Finalizers = nil
	return client.IgnoreNotFound(c.Client.SubResource("finalize").Update(ctx, ns))
}

// namespaced are the resources that namespaces hold and of which a collection can be deleted.
func (c *Cluster) namespaced() ([]schema.GroupVersionResource, error) {
	d, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return nil, err
	}
	lists, err := d.ServerPreferredNamespacedResources()
	if err != nil {
		return nil, err
	}
	var found []schema.GroupVersionResource
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "deletecollection") && slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				found = append(found, gv.WithResource(r.Name))
			}
		}
	}
	return found, nil
}

// empty deletes the objects of one resource in a namespace, those too that a finalizer holds: whoever would take it away has
// ended with the test.
func empty(ctx context.Context, r dynamic.ResourceInterface) error {
	held := func(o unstructured.Unstructured) bool { return len(o.GetFinalizers()) > 0 }
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return err
	}
	for _, o := range list.Items {
		if !held(o) {
			continue
		}
		if _, err := r.Patch(ctx, o.GetName(), types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	now := int64(0) // no kubelet would ever say that a Pod has ended
	return r.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
}
