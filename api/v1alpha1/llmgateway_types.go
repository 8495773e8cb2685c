package v1alpha1

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LLMGateway is the door: where Envoy listens and what it lets through.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=llmgw
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type LLMGateway struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   LLMGatewaySpec `json:"spec"`
	Status Status         `json:"status,omitempty"`
}

// LLMGatewayList is a list of LLMGateway.
//
// +kubebuilder:object:root=true
type LLMGatewayList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []LLMGateway `json:"items"`
}

// LLMGatewaySpec describes the door.
//
// +kubebuilder:validation:XValidation:rule="self.accounting.ledger != 'Redis' || has(self.sharedState)",message="accounting.ledger Redis needs sharedState"
// +kubebuilder:validation:XValidation:rule="self.authentication.keyStore != 'Redis' || has(self.sharedState)",message="authentication.keyStore Redis needs sharedState"
type LLMGatewaySpec struct {
	// Listeners are the addresses clients connect to.
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, b.port == a.port && b.address == a.address))",message="two listeners have the same address and port"
	Listeners []Listener `json:"listeners"`
	// Limits bound what one client may cost.
	// +optional
	// +kubebuilder:default={}
	Limits GatewayLimits `json:"limits,omitempty"`
	// Timeouts of client connections and requests.
	// +optional
	// +kubebuilder:default={}
	Timeouts GatewayTimeouts `json:"timeouts,omitempty"`
	// Authentication says how callers are told apart.
	// +optional
	// +kubebuilder:default={}
	Authentication Authentication `json:"authentication,omitempty"`
	// Accounting says how usage is counted and kept.
	// +optional
	// +kubebuilder:default={}
	Accounting Accounting `json:"accounting,omitempty"`
	// Telemetry says what is shown of requests: which traces are exported, and whether with their text. Where they are sent is said by the
	// standard OTEL_* variables of the process.
	// +optional
	// +kubebuilder:default={}
	Telemetry Telemetry `json:"telemetry,omitempty"`
	// NativeLane says whether Envoy may let requests through without asking Weir about each, where Weir has decided equal ones and
	// has let more of them in ahead. What is decided, counted and answered is the same; a request costs less than half. Auto does so wherever
	// a request's route, limits and backends allow: `weir explain request` says whether, and why not.
	// +optional
	// +kubebuilder:default=Auto
	NativeLane NativeLane `json:"nativeLane,omitempty"`
	// SharedState lets replicas count together. Without it each counts for itself, in memory.
	// +optional
	SharedState *SharedState `json:"sharedState,omitempty"`
	// AllowedRoutes says whose Routes serve requests of this gateway, and what they may ask for. A Route is taken where each of its matches fits
	// one of the entries; else the gateway does without the whole Route. Without any entry every Route is taken, unless the installation
	// says otherwise (--allowed-routes): the Helm chart takes those of the gateway's own namespace.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	AllowedRoutes []AllowedRoutes `json:"allowedRoutes,omitempty"`
}

// AllowedRoutes lets in Routes of some namespaces. Everything that is given must hold for a match of a Route. "{namespace}" stands for the Route's
// namespace, so that one entry can give each namespace a part of its own.
type AllowedRoutes struct {
	// Namespaces whose Routes are meant.
	// +optional
	// +kubebuilder:default={from: Same}
	Namespaces RouteNamespaces `json:"namespaces,omitempty"`
	// PathPrefixes: the path of a match must be one of these or below it, by whole segments. Empty: any path.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	// +kubebuilder:validation:items:Pattern=`^/([^{}]|\{namespace\})*$`
	PathPrefixes []string `json:"pathPrefixes,omitempty"`
	// Models: a match must name models, and each of them, or each of its patterns, must be within one of these. "*" stands for any run of
	// characters. Empty: any model.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:Pattern=`^([^{}]|\{namespace\})*$`
	Models []ModelName `json:"models,omitempty"`
	// ConsumerLabels: a match must have these consumerLabels, with these values. Empty: any.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	ConsumerLabels map[string]RouteLabelValue `json:"consumerLabels,omitempty"`
}

// RouteLabelValue is a value of a label, in which "{namespace}" stands for the namespace of a Route.
// +kubebuilder:validation:MaxLength=1024
// +kubebuilder:validation:Pattern=`^([^{}]|\{namespace\})*$`
type RouteLabelValue string

// RouteNamespaces are namespaces that Routes are in.
// +kubebuilder:validation:XValidation:rule="(self.from == 'Selector') == has(self.selector)",message="selector belongs to from: Selector, which needs it"
type RouteNamespaces struct {
	// From: All namespaces, the Same as the gateway's, or those that the Selector matches.
	// +optional
	// +kubebuilder:default=Same
	From FromNamespaces `json:"from,omitempty"`
	// Selector of the labels of Namespaces. The label kubernetes.io/metadata.name is the name of each; in a folder there are no others.
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// NamespaceNameLabel is the label that has the name of each Namespace. The API server sees to it.
const NamespaceNameLabel = "kubernetes.io/metadata.name"

// SelectedLabels are the labels of Namespaces that must be known to judge the entry, besides their names. None where it has no selector.
func (a *AllowedRoutes) SelectedLabels() []string {
	if a.Namespaces.From != NamespacesFromSelector || a.Namespaces.Selector == nil {
		return nil
	}
	keys := slices.Collect(maps.Keys(a.Namespaces.Selector.MatchLabels))
	for _, e := range a.Namespaces.Selector.MatchExpressions {
		keys = append(keys, e.Key)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == NamespaceNameLabel })
	slices.Sort(keys)
	return slices.Compact(keys)
}

// FromNamespaces says which namespaces are meant.
// +kubebuilder:validation:Enum=All;Same;Selector
type FromNamespaces string

// The kinds of FromNamespaces.
const (
	NamespacesFromAll      FromNamespaces = "All"
	NamespacesFromSame     FromNamespaces = "Same"
	NamespacesFromSelector FromNamespaces = "Selector"
)

// NativeLane says which requests Envoy may let through without asking.
// +kubebuilder:validation:Enum=Auto;Disabled
type NativeLane string

// The kinds of NativeLane.
const (
	NativeLaneAuto     NativeLane = "Auto"
	NativeLaneDisabled NativeLane = "Disabled"
)

// Listener is one address that speaks HTTP/1.1 and HTTP/2.
type Listener struct {
	// Name of the listener.
	Name ObjectName `json:"name"`
	// Address to listen on.
	// +optional
	// +kubebuilder:default="0.0.0.0"
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="address must be an IP address"
	Address string `json:"address,omitempty"`
	// Port to listen on.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// TLS terminates TLS on this listener. Plain text without it.
	// +optional
	TLS *ListenerTLS `json:"tls,omitempty"`
}

// ListenerTLS is the listener's own certificate.
type ListenerTLS struct {
	// Certificate chain, PEM.
	CertificateRef SecretRef `json:"certificateRef"`
	// Private key, PEM.
	PrivateKeyRef SecretRef `json:"privateKeyRef"`
}

// GatewayLimits bound what one client may cost.
type GatewayLimits struct {
	// MaxRequestBytes is the largest request body; more gets 413.
	// +optional
	// +kubebuilder:default="32Mi"
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self)).compareTo(quantity('256Mi')) <= 0",message="maxRequestBytes must be a quantity between 1Ki and 256Mi"
	MaxRequestBytes resource.Quantity `json:"maxRequestBytes,omitempty"`
	// MaxHeaderKiB is the largest request header block in KiB; more gets 431.
	// +optional
	// +kubebuilder:default=60
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=8192
	MaxHeaderKiB int32 `json:"maxHeaderKiB,omitempty"`
	// MaxConnections is the number of client connections a listener holds; more are refused. 0 means no limit.
	// +optional
	// +kubebuilder:default=0
	// +kubebuilder:validation:Minimum=0
	MaxConnections int32 `json:"maxConnections,omitempty"`
}

// GatewayTimeouts of client connections and requests.
type GatewayTimeouts struct {
	// Idle closes a client connection without requests.
	// +optional
	// +kubebuilder:default="1h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	Idle *Duration `json:"idle,omitempty"`
	// StreamIdle ends a request on which no byte has moved in either direction. Shorter than a Route's timeouts.request, it
	// cuts an answer that a model takes long to think about.
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	StreamIdle *Duration `json:"streamIdle,omitempty"`
	// Request is the time a client has to send a whole request.
	// +optional
	// +kubebuilder:default="60s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	Request *Duration `json:"request,omitempty"`
}
