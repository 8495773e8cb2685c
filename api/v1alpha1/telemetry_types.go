package v1alpha1

import "k8s.io/apimachinery/pkg/api/resource"

// Telemetry says what is shown of requests.
type Telemetry struct {
	// Tracing says which requests' traces are exported. Trace context (W3C traceparent) is passed on to backends in any case.
	// +optional
	// +kubebuilder:default={}
	Tracing Tracing `json:"tracing,omitempty"`
	// CaptureContent puts the text of prompts and answers into spans. Without it they hold none.
	// +optional
	CaptureContent *CaptureContent `json:"captureContent,omitempty"`
	// AccessLog writes a line for each request to standard output.
	// +optional
	// +kubebuilder:default=Enabled
	AccessLog AccessLogMode `json:"accessLog,omitempty"`
}

// Tracing says which requests' traces are exported.
type Tracing struct {
	// Sampling of requests that come without a decision of their caller; callers that send traceparent decide by its sampled flag. A
	// share of traces in percent with up to four decimals: "100", "12.5", "0.01". Without it OTEL_TRACES_SAMPLER and
	// OTEL_TRACES_SAMPLER_ARG say it, and without those it is all of them.
	// +optional
	// +kubebuilder:validation:Pattern=`^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)$`
	// +kubebuilder:validation:MaxLength=8
	Sampling string `json:"sampling,omitempty"`
	// KeepFailed exports the traces of requests that failed (an answer of 500 or more, an attempt that failed, an answer that broke
	// off) even where they were not sampled.
	// +optional
	// +kubebuilder:default=true
	KeepFailed *bool `json:"keepFailed,omitempty"`
	// KeepSlowerThan exports the traces of requests whose first byte took longer even where they were not sampled.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('[1-9]')",message="must be longer than zero"
	KeepSlowerThan *Duration `json:"keepSlowerThan,omitempty"`
}

// AccessLogMode says whether lines are written.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type AccessLogMode string

// Access log modes.
const (
	AccessLogEnabled  AccessLogMode = "Enabled"
	AccessLogDisabled AccessLogMode = "Disabled"
)

// CaptureContent puts text into spans (gen_ai.input.messages, gen_ai.output.messages and gen_ai.system_instructions of the OpenTelemetry
// conventions). It costs memory and time: what is captured passes through Weir, also where nothing is translated.
type CaptureContent struct {
	// Parts that are captured.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Parts []ContentPart `json:"parts"`
	// Models whose requests are captured, by the caller's name, "*" standing for any characters. All where it is empty.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Models []string `json:"models,omitempty"`
	// Redact replaces what matches these regular expressions (RE2) by "[redacted]", before anything is cut to MaxBytes.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=1024
	Redact []string `json:"redact,omitempty"`
	// MaxBytes of text of one request in each direction; what is longer is cut, and says so.
	// +optional
	// +kubebuilder:default="16Ki"
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1')) >= 0 && quantity(string(self)).compareTo(quantity('1Mi')) <= 0",message="maxBytes must be a quantity between 1 and 1Mi"
	MaxBytes resource.Quantity `json:"maxBytes,omitempty"`
}

// ContentPart is a direction of text.
//
// +kubebuilder:validation:Enum=Input;Output
type ContentPart string

// Content parts.
const (
	ContentInput  ContentPart = "Input"
	ContentOutput ContentPart = "Output"
)
