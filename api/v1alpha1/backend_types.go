package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Backend is something that serves models: a public API or a pool of one's own servers.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir,shortName=llmbackend
// +kubebuilder:printcolumn:name="Dialect",type=string,JSONPath=`.spec.dialect`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Backend struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BackendSpec `json:"spec"`
	Status Status      `json:"status,omitempty"`
}

// BackendList is a list of Backend.
//
// +kubebuilder:object:root=true
type BackendList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Backend `json:"items"`
}

// BackendSpec describes what serves models.
//
// +kubebuilder:validation:XValidation:rule="[has(self.url), has(self.endpoints), has(self.service), has(self.selector), has(self.inferencePool)].filter(x, x).size() == 1",message="give exactly one of url, endpoints, service, selector, inferencePool"
// +kubebuilder:validation:XValidation:rule="!has(self.basePath) || !has(self.url)",message="basePath belongs to servers that have no url; with url, write the path into the url"
// +kubebuilder:validation:XValidation:rule="!has(self.tls) || !(has(self.selector) || has(self.inferencePool)) || has(self.tls.serverName)",message="tls needs tls.serverName here: the servers have no name in common that a certificate could show"
type BackendSpec struct {
	// Dialect is the wire format this backend speaks: openai (also vLLM, SGLang and every
	// OpenAI-compatible server), anthropic, dashscope.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Dialect string `json:"dialect"`
	// URL is the base URL, as the provider's own SDK takes it: https://api.openai.com/v1,
	// https://api.anthropic.com, https://dashscope.aliyuncs.com/api/v1.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHost() != ''",message="url must be an absolute http or https URL"
	// +kubebuilder:validation:XValidation:rule="!self.contains('?') && !self.contains('#') && !self.contains('@')",message="url must have no query, fragment or user information"
	URL string `json:"url,omitempty"`
	// Endpoints are the servers of a pool of equals.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4096
	// +listType=atomic
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Service of the same namespace whose ready endpoints are the servers, each asked by itself: not its virtual address.
	// In a cluster only.
	// +optional
	Service *ServiceBackend `json:"service,omitempty"`
	// Selector of Pods of the same namespace: the ready ones are the servers. In a cluster only.
	// +optional
	Selector *PodSelector `json:"selector,omitempty"`
	// InferencePool of the Gateway API Inference Extension, in the same namespace: the ready Pods of its selector are the servers,
	// at its first target port. In a cluster only.
	// +optional
	InferencePool *InferencePoolBackend `json:"inferencePool,omitempty"`
	// BasePath stands before the dialect's paths on every endpoint: /v1 for most OpenAI-compatible servers.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*$`
	BasePath string `json:"basePath,omitempty"`
	// Credential is what Weir shows to the backend. Callers' own credentials never reach it.
	// +optional
	Credential *BackendCredential `json:"credential,omitempty"`
	// Models this backend serves. Empty: any model, by the name the caller uses.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=512
	Models []BackendModel `json:"models,omitempty"`
	// Prices of models that have none of their own. Without any, requests are entered in the ledger as unpriced.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Prices []Price `json:"prices,omitempty"`
	// DefaultMaxTokens is sent to a dialect that requires a limit when the caller gave none.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	DefaultMaxTokens int64 `json:"defaultMaxTokens,omitempty"`
	// Protocol used towards the backend. Auto: HTTP/2 where TLS negotiates it, else HTTP/1.1.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;HTTP1;HTTP2
	Protocol BackendProtocol `json:"protocol,omitempty"`
	// TLS towards the backend. Implied by an https URL.
	// +optional
	TLS *BackendTLS `json:"tls,omitempty"`
	// Connections bound what this backend is asked to hold at once.
	// +optional
	// +kubebuilder:default={}
	Connections ConnectionLimits `json:"connections,omitempty"`
	// HealthCheck asks every endpoint whether it is well. It needs a LoadPolicy, which says what follows.
	// +optional
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// Metrics are read from every endpoint. They need a LoadPolicy, which says what follows.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Metrics []MetricsSource `json:"metrics,omitempty"`
}

// HealthCheck asks an endpoint whether it is well: a GET that must be answered with 2xx.
type HealthCheck struct {
	// Path that is asked for.
	// +optional
	// +kubebuilder:default="/health"
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*$`
	Path string `json:"path,omitempty"`
	// Port that is asked. Without it: the endpoint's.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// Interval between two checks of an endpoint.
	// +optional
	// +kubebuilder:default="1s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('50ms') && duration(self) <= duration('10m')",message="interval must be from 50ms to 10m"
	Interval *Duration `json:"interval,omitempty"`
	// Timeout of one check.
	// +optional
	// +kubebuilder:default="1s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')",message="timeout must be from 10ms to 1m"
	Timeout *Duration `json:"timeout,omitempty"`
}

// MetricsSource is where an endpoint tells its load.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'ORCA' || (!has(self.port) && !has(self.path) && !has(self.interval) && !has(self.timeout))",message="ORCA reports come with the answers: port, path, interval and timeout do not belong to it"
type MetricsSource struct {
	// Type of the metrics: of an inference server, of NVIDIA's DCGM exporter, or ORCA, which are reports in the headers of answers.
	// +kubebuilder:validation:Enum=VLLM;SGLang;Triton;TensorRTLLM;TGI;DCGM;ORCA
	Type MetricsType `json:"type"`
	// Path of the metrics. Without it: /metrics, and /prometheus/metrics for TensorRTLLM.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*$`
	Path string `json:"path,omitempty"`
	// Port of the metrics. Without it: the endpoint's; 9400 for DCGM, 8002 for Triton.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port,omitempty"`
	// Interval between two readings of an endpoint. Without it: 500ms. What crosses a line of a rule is read again at once.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('50ms') && duration(self) <= duration('10m')",message="interval must be from 50ms to 10m"
	Interval *Duration `json:"interval,omitempty"`
	// Timeout of one reading. Without it: 2s.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')",message="timeout must be from 10ms to 1m"
	Timeout *Duration `json:"timeout,omitempty"`
}

// MetricsType is a kind of metrics.
type MetricsType string

// The types.
const (
	MetricsVLLM        MetricsType = "VLLM"
	MetricsSGLang      MetricsType = "SGLang"
	MetricsTriton      MetricsType = "Triton"
	MetricsTensorRTLLM MetricsType = "TensorRTLLM"
	MetricsTGI         MetricsType = "TGI"
	MetricsDCGM        MetricsType = "DCGM"
	MetricsORCA        MetricsType = "ORCA"
)

// BackendProtocol is the HTTP version used towards a backend.
type BackendProtocol string

// The protocols.
const (
	ProtocolAuto  BackendProtocol = "Auto"
	ProtocolHTTP1 BackendProtocol = "HTTP1"
	ProtocolHTTP2 BackendProtocol = "HTTP2"
)

// Endpoint is one server of a pool.
type Endpoint struct {
	// Address is an IP address or a DNS name.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[0-9A-Za-z_:]([-0-9A-Za-z_.:]*[0-9A-Za-z_:])?$`
	Address string `json:"address"`
	// Port of the server.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Weight relative to the other endpoints.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Weight int32 `json:"weight,omitempty"`
}

// ServiceBackend names the servers by a Service.
type ServiceBackend struct {
	// Name of the Service.
	Name ObjectName `json:"name"`
	// Port of the Service, by number or name.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 65535 : string(self).matches('^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$')",message="port must be a number from 1 to 65535, or the name of a port"
	Port intstr.IntOrString `json:"port"`
}

// PodSelector names the servers by the labels of Pods.
//
// +kubebuilder:validation:XValidation:rule="has(self.matchLabels) && self.matchLabels.size() > 0 || has(self.matchExpressions) && self.matchExpressions.size() > 0",message="give matchLabels or matchExpressions: an empty selector would be every Pod of the namespace"
type PodSelector struct {
	metav1.LabelSelector `json:",inline"`
	// Port of the Pods, by number or by the name that a container gives it.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 65535 : string(self).matches('^[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$')",message="port must be a number from 1 to 65535, or the name of a port"
	Port intstr.IntOrString `json:"port"`
}

// InferencePoolBackend names the servers by an InferencePool.
type InferencePoolBackend struct {
	// Name of the InferencePool.
	Name ObjectName `json:"name"`
}

// Discovered says whether the servers are found in the cluster instead of being written down.
func (s *BackendSpec) Discovered() bool {
	return s.Service != nil || s.Selector != nil || s.InferencePool != nil
}

// BackendCredential is what Weir shows to the backend.
type BackendCredential struct {
	// SecretRef holds the bare key; the dialect knows the header it goes into.
	SecretRef SecretRef `json:"secretRef"`
}

// BackendModel is one model of a backend.
type BackendModel struct {
	// Name by which callers ask for it.
	Name ModelName `json:"name"`
	// UpstreamName is what the backend calls it. Empty: the same.
	// +optional
	UpstreamName ModelName `json:"upstreamName,omitempty"`
	// Prices of this model. Empty: the backend's.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Prices []Price `json:"prices,omitempty"`
}

// Price is what tokens cost from a day on, in the gateway's currency for a million tokens, in quotes: "2.50", "0.075". A kind
// of token that has no price of its own costs what its basic kind does: cached input as input, reasoning as output.
type Price struct {
	// EffectiveFrom is when the price begins to hold, as RFC 3339 writes it: 2026-11-01T00:00:00Z. Without it: always.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	EffectiveFrom *metav1.Time `json:"effectiveFrom,omitempty"`
	// Version names the price in ledger entries. Empty: the time it begins.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Version string `json:"version,omitempty"`
	// Input that the model read.
	Input PriceAmount `json:"input"`
	// Output that the model wrote.
	Output PriceAmount `json:"output"`
	// CacheRead is input that the provider had in its cache.
	// +optional
	CacheRead *PriceAmount `json:"cacheRead,omitempty"`
	// CacheWrite is input that the provider put into its cache.
	// +optional
	CacheWrite *PriceAmount `json:"cacheWrite,omitempty"`
	// Reasoning is output that the caller does not see.
	// +optional
	Reasoning *PriceAmount `json:"reasoning,omitempty"`
	// Request costs this much itself, whatever its tokens: per request, not per million.
	// +optional
	Request *PriceAmount `json:"request,omitempty"`
}

// PriceAmount is an amount of money in quotes, of at most 9 decimals: "2.50".
//
// +kubebuilder:validation:MaxLength=24
// +kubebuilder:validation:Pattern=`^[0-9]{1,7}(\.[0-9]{1,9})?$`
type PriceAmount string

// BackendTLS is how Weir trusts the backend.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.caRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)",message="caRef and insecureSkipVerify exclude each other"
type BackendTLS struct {
	// ServerName for SNI and certificate verification. Empty: the host of the URL, the first endpoint, or name.namespace.svc of
	// the Service.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServerName string `json:"serverName,omitempty"`
	// CARef holds the certificate authorities to trust, PEM. Empty: the system's.
	// +optional
	CARef *SecretRef `json:"caRef,omitempty"`
	// InsecureSkipVerify accepts any certificate. For tests only; `weir validate` warns.
	// +optional
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty"`
}

// ConnectionLimits bound what a backend is asked to hold at once.
type ConnectionLimits struct {
	// MaxConnections to the backend.
	// +optional
	// +kubebuilder:default=4096
	// +kubebuilder:validation:Minimum=1
	MaxConnections int32 `json:"maxConnections,omitempty"`
	// MaxRequests in flight; more are refused with 503.
	// +optional
	// +kubebuilder:default=16384
	// +kubebuilder:validation:Minimum=1
	MaxRequests int32 `json:"maxRequests,omitempty"`
	// MaxPendingRequests waiting for a connection.
	// +optional
	// +kubebuilder:default=4096
	// +kubebuilder:validation:Minimum=1
	MaxPendingRequests int32 `json:"maxPendingRequests,omitempty"`
	// ConnectTimeout for a new connection, TLS included.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	ConnectTimeout *Duration `json:"connectTimeout,omitempty"`
}
