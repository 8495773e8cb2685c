package fleet

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"k8s.io/apimachinery/pkg/types"
)

// Node is who a client says that it is.
type Node struct {
	// ID is the name of the replica: namespace/name of its pod.
	ID string
	// Version of Weir.
	Version string
	// Scope is what it wants.
	Scope Scope
}

const (
	maxNodeID = 512  // bytes
	maxScope  = 4096 // namespaces and gateways
)

// The keys of a node's metadata.
const (
	versionKey    = "version"
	namespacesKey = "namespaces"
	gatewaysKey   = "gateways" // of "namespace/name"
)

func (n Node) message() *corev3.Node {
	list := func(values []string) *structpb.Value {
		out := &structpb.ListValue{}
		for _, v := range values {
			out.Values = append(out.Values, structpb.NewStringValue(v))
		}
		return structpb.NewListValue(out)
	}
	var gateways []string
	for _, g := range n.Scope.Gateways {
		gateways = append(gateways, g.String())
	}
	return &corev3.Node{Id: n.ID, UserAgentName: "weir", Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		versionKey: structpb.NewStringValue(n.Version), namespacesKey: list(n.Scope.Namespaces), gatewaysKey: list(gateways),
	}}}
}

// nodeOf reads what a client says of itself.
func nodeOf(m *corev3.Node) (Node, error) {
	if m.GetId() == "" || len(m.GetId()) > maxNodeID {
		return Node{}, errNoNode
	}
	fields := m.GetMetadata().GetFields()
	n := Node{ID: m.GetId(), Version: clean(fields[versionKey].GetStringValue())}
	namespaces, gateways := fields[namespacesKey].GetListValue().GetValues(), fields[gatewaysKey].GetListValue().GetValues()
	if len(namespaces)+len(gateways) > maxScope {
		return Node{}, fmt.Errorf("the client names more than %d namespaces and gateways", maxScope)
	}
	for _, v := range namespaces {
		// An empty name would be no part of any scope, and an empty list is everything.
		if v.GetStringValue() == "" {
			return Node{}, fmt.Errorf("metadata.%s of the client's node must be a list of names", namespacesKey)
		}
		n.Scope.Namespaces = append(n.Scope.Namespaces, v.GetStringValue())
	}
	for _, v := range gateways {
		namespace, name, ok := strings.Cut(v.GetStringValue(), "/")
		if !ok || namespace == "" || name == "" {
			return Node{}, fmt.Errorf("metadata.%s of the client's node must be a list of NAMESPACE/NAME", gatewaysKey)
		}
		n.Scope.Gateways = append(n.Scope.Gateways, types.NamespacedName{Namespace: namespace, Name: name})
	}
	return n, nil
}
