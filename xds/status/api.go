package status

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/source"
)

// page is how many objects are listed at once.
const page = 500

// written is a status as the API server has it.
type written struct {
	uid    types.UID
	status v1alpha1.Status
}

// api reads and writes statuses. Objects of all kinds look alike to it.
type api struct{ client rest.Interface }

func newAPI(config *rest.Config) (*api, error) {
	own := rest.CopyConfig(config)
	own.QPS = -1 // the Writer limits itself
	own.APIPath = "/apis"
	own.GroupVersion = &v1alpha1.GroupVersion
	own.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("the API server cannot be asked for objects: %w", err)
	}
	return &api{client}, nil
}

// head is the part of an object that matters here.
type head struct {
	Metadata struct {
		Namespace string    `json:"namespace"`
		Name      string    `json:"name"`
		UID       types.UID `json:"uid"`
	} `json:"metadata"`
	Status v1alpha1.Status `json:"status"`
}

// statuses lists what is written of all objects of the namespaces; none means all namespaces.
func (a *api) statuses(ctx context.Context, namespaces []string) (map[source.ObjectRef]written, error) {
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	out := map[source.ObjectRef]written{}
	for _, kind := range slices.Sorted(maps.Keys(resources)) {
		for _, namespace := range namespaces {
			if err := a.list(ctx, kind, namespace, out); err != nil {
				return nil, fmt.Errorf("the statuses of %s cannot be read: %w", resources[kind], err)
			}
		}
	}
	return out, nil
}

func (a *api) list(ctx context.Context, kind, namespace string, out map[source.ObjectRef]written) error {
	for next := ""; ; {
		req := a.client.Get().AbsPath(path(kind, namespace)).Param("limit", fmt.Sprint(page))
		if next != "" {
			req.Param("continue", next)
		}
		body, err := req.Do(ctx).Raw()
		if err != nil {
			return err
		}
		var list struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []head          `json:"items"`
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return fmt.Errorf("the answer is no list: %w", err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			out[source.ObjectRef{Kind: kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}] = written{o.Metadata.UID, o.Status}
		}
		if next = list.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// write applies a status. Weir owns its own conditions, and those of others stay. It returns false where the object is gone, also where another
// one has its name by now: that one has the wrong status until it has been read and gets its own, because the API server heeds no UID here.
func (a *api) write(ctx context.Context, ref source.ObjectRef, w written) (bool, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       ref.Kind,
		"metadata":   map[string]any{"name": ref.Name, "namespace": ref.Namespace},
		"status":     w.status,
	})
	if err != nil {
		return false, fmt.Errorf("the status of %s cannot be written as JSON: %w", ref, err)
	}
	answer, err := a.client.Patch(types.ApplyPatchType).AbsPath(path(ref.Kind, ref.Namespace), ref.Name, "status").
		Param("fieldManager", fieldManager).Param("force", "true").
		// The whole object need not come back.
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json").
		Body(body).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the status of %s cannot be written: %w", ref, err)
	}
	var is head
	if err := json.Unmarshal(answer, &is); err != nil {
		return false, fmt.Errorf("what the API server says of the status of %s is no object: %w", ref, err)
	}
	return is.Metadata.UID == w.uid, nil
}
