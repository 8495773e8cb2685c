package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Budget says how much money may be spent in a day, a week or a month.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories=weir
// +kubebuilder:printcolumn:name="Period",type=string,JSONPath=`.spec.period`
// +kubebuilder:printcolumn:name="Amount",type=string,JSONPath=`.spec.amount`
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Budget struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   BudgetSpec `json:"spec"`
	Status Status     `json:"status,omitempty"`
}

// BudgetList is a list of Budget.
//
// +kubebuilder:object:root=true
type BudgetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Budget `json:"items"`
}

// BudgetSpec describes a budget and what it applies to.
//
// +kubebuilder:validation:XValidation:rule="!has(self.cutStreams) || !self.cutStreams || self.action == 'Deny'",message="cutStreams needs the action Deny"
type BudgetSpec struct {
	// TargetRefs are what the budget applies to: a request that any of them covers.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	TargetRefs []PolicyTarget `json:"targetRefs"`
	// Models the budget applies to, by the caller's name; "*" stands for any run of characters. Empty: any model.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	Models []ModelName `json:"models,omitempty"`
	// Per says who shares the amount. Target: all that a target covers. Tenant, Consumer, Credential: each has the
	// whole amount.
	// +optional
	// +kubebuilder:default=Target
	// +kubebuilder:validation:Enum=Target;Tenant;Consumer;Credential
	Per PolicyScope `json:"per,omitempty"`
	// Amount of money for one period, in the currency of the gateway's prices, in quotes: "250", "12.50".
	// +kubebuilder:validation:XValidation:rule="isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('0')) > 0 && quantity(string(self)).compareTo(quantity('1G')) <= 0",message="amount must be a quantity above 0 and at most 1G"
	// +kubebuilder:validation:XValidation:rule="!string(self).matches('[num]$')",message="the suffixes n, u and m are not for money: write it as a decimal number in quotes, such as \"0.005\""
	Amount resource.Quantity `json:"amount"`
	// Period: a calendar day, a week from Monday, or a calendar month.
	// +kubebuilder:validation:Enum=Day;Week;Month
	Period BudgetPeriod `json:"period"`
	// TimeZone in which periods begin: a name of the IANA database.
	// +optional
	// +kubebuilder:default=UTC
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z][A-Za-z0-9_+/-]*$`
	TimeZone string `json:"timeZone,omitempty"`
	// WarnAtPercent of the amount, answers carry x-weir-budget-warning and an event is logged.
	// +optional
	// +kubebuilder:default=80
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	WarnAtPercent int32 `json:"warnAtPercent,omitempty"`
	// Action when the amount is spent. Deny: requests get 429. Warn: they carry the warning and go on.
	// +optional
	// +kubebuilder:default=Deny
	// +kubebuilder:validation:Enum=Deny;Warn
	Action BudgetAction `json:"action,omitempty"`
	// CutStreams ends a running stream when the amount is spent, with the event that says so in the caller's dialect.
	// Without it a request that has been admitted runs to its end.
	// +optional
	CutStreams bool `json:"cutStreams,omitempty"`
	// AssumedOutputTokens are reserved for a request that sets no largest output.
	// +optional
	// +kubebuilder:default=1024
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	AssumedOutputTokens int64 `json:"assumedOutputTokens,omitempty"`
	// Sharing says how the replicas of a gateway count together.
	// +optional
	// +kubebuilder:default={}
	Sharing Sharing `json:"sharing,omitempty"`
}

// BudgetPeriod is the calendar period of a budget.
type BudgetPeriod string

// The periods.
const (
	PeriodDay   BudgetPeriod = "Day"
	PeriodWeek  BudgetPeriod = "Week"
	PeriodMonth BudgetPeriod = "Month"
)

// BudgetAction is what happens when a budget is spent.
type BudgetAction string

// The actions.
const (
	BudgetDeny BudgetAction = "Deny"
	BudgetWarn BudgetAction = "Warn"
)
