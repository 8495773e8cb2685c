package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SessionPolicy keeps conversations: a request that names one gets its last turns, whatever provider serves it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=sessp,categories=weir
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Programmed",type=string,JSONPath=`.status.conditions[?(@.type=="Programmed")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SessionPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SessionPolicySpec `json:"spec"`
	Status Status            `json:"status,omitempty"`
}

// SessionPolicyList is a list of SessionPolicy.
//
// +kubebuilder:object:root=true
type SessionPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SessionPolicy `json:"items"`
}

// SessionPolicySpec describes what is kept of conversations and what they apply to. Of several policies that cover a
// request one applies: that of the APIKey before the Consumer's, the Tenant's, the rule's, the Route's, the LLMGateway's; of two for
// the same kind of target the older.
type SessionPolicySpec struct {
	// TargetRefs are what the policy applies to: a request that any of them covers.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	TargetRefs []PolicyTarget `json:"targetRefs"`
	// Headers that may name the conversation of a request; the first that is there does. previous_response_id and conversation of the
	// Responses API name one as well.
	// +optional
	// +listType=atomic
	// +kubebuilder:default={"x-weir-session"}
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9!#$%&'*+.^_|~-]+$`
	Headers []string `json:"headers,omitempty"`
	// Scope says who shares a conversation of the same name. Consumer: nobody, each Consumer has its own. Tenant: all of a tenant.
	// +optional
	// +kubebuilder:default=Consumer
	// +kubebuilder:validation:Enum=Consumer;Tenant
	Scope SessionScope `json:"scope,omitempty"`
	// History says how much of a conversation is added to a request.
	// +optional
	// +kubebuilder:default={}
	History SessionHistory `json:"history,omitempty"`
	// Keep says how much of a conversation is kept, and for how long.
	// +optional
	// +kubebuilder:default={}
	Keep SessionKeep `json:"keep,omitempty"`
	// Store says where conversations are kept.
	// +optional
	// +kubebuilder:default={}
	Store SessionStore `json:"store,omitempty"`
	// Summary has a model sum up the turns that would else be forgotten.
	// +optional
	Summary *SessionSummary `json:"summary,omitempty"`
	// Rules find intents, slots and entities in what is said.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Rules []SessionRule `json:"rules,omitempty"`
	// Extraction has a model find them, by a tool call.
	// +optional
	Extraction *SessionExtraction `json:"extraction,omitempty"`
	// StateMachine follows the course of a conversation. {} is the built-in one: idle, awaiting_confirmation, adjusting,
	// asking_again, executing, reporting.
	// +optional
	StateMachine *SessionStateMachine `json:"stateMachine,omitempty"`
	// Sticky keeps a conversation at the endpoint that served it last, where its prompt is cached, as far as the
	// LoadPolicy's session affinity allows.
	// +optional
	// +kubebuilder:default=true
	Sticky *bool `json:"sticky,omitempty"`
}

// SessionScope says who shares a conversation.
type SessionScope string

// The scopes.
const (
	SessionPerConsumer SessionScope = "Consumer"
	SessionPerTenant   SessionScope = "Tenant"
)

// SessionHistory says how much of a conversation is added to a request. What the caller sends itself is not added again. A
// request of the Responses API that continues another gets all turns that are kept, as far as maxTokens lets it.
type SessionHistory struct {
	// Turns that are added, the last ones: a turn is what the user said, and all that followed until the user spoke again. 0: none.
	// +optional
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Turns *int32 `json:"turns,omitempty"`
	// MaxTokens that the added turns may have, estimated. 0: no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000000
	MaxTokens int64 `json:"maxTokens,omitempty"`
}

// SessionKeep says how much of a conversation is kept, and for how long.
//
// +kubebuilder:validation:XValidation:rule="!has(self.idleTimeout) || !has(self.absoluteTimeout) || duration(self.idleTimeout) <= duration(self.absoluteTimeout)",message="idleTimeout may not be longer than absoluteTimeout"
type SessionKeep struct {
	// Turns that are kept; the oldest are forgotten.
	// +optional
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Turns int32 `json:"turns,omitempty"`
	// Bytes that the turns of a conversation may have, before compression. A quantity: 256Ki, 4Mi; from 4Ki to 64Mi.
	// +optional
	// +kubebuilder:default="1Mi"
	Bytes *resource.Quantity `json:"bytes,omitempty"`
	// IdleTimeout after which a conversation that nobody used is forgotten.
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8784h')",message="idleTimeout must be from 1s to 8784h"
	IdleTimeout *Duration `json:"idleTimeout,omitempty"`
	// AbsoluteTimeout after which a conversation is forgotten, however much it is used.
	// +optional
	// +kubebuilder:default="720h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8784h')",message="absoluteTimeout must be from 1s to 8784h"
	AbsoluteTimeout *Duration `json:"absoluteTimeout,omitempty"`
}

// SessionStore says where conversations are kept.
type SessionStore struct {
	// Type Auto: in Redis where the LLMGateway has sharedState, else in memory. Memory: in each replica for itself; callers must then
	// come back to the same one.
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Memory;Redis
	Type SessionStoreType `json:"type,omitempty"`
	// MemoryBytes that the conversations of this policy may take in memory; those that were not used for longest go first. A quantity
	// from 1Mi to 64Gi.
	// +optional
	// +kubebuilder:default="64Mi"
	MemoryBytes *resource.Quantity `json:"memoryBytes,omitempty"`
	// EncryptionKeys encrypt what is kept (AES-256-GCM). The first one writes, all of them read: to rotate, put the new key first and remove
	// the old one after absoluteTimeout. A key is 32 random bytes in base64 or hex: `openssl rand -base64 32`.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	EncryptionKeys []SessionKey `json:"encryptionKeys,omitempty"`
	// OnFailure says what becomes of a request whose conversation cannot be read. Open: it goes on without history, and the answer has
	// x-weir-session-state: lost. Deny: it is refused with 503.
	// +optional
	// +kubebuilder:default=Open
	// +kubebuilder:validation:Enum=Open;Deny
	OnFailure SessionFailure `json:"onFailure,omitempty"`
}

// SessionStoreType is where conversations are kept.
type SessionStoreType string

// The stores.
const (
	SessionStoreAuto   SessionStoreType = "Auto"
	SessionStoreMemory SessionStoreType = "Memory"
	SessionStoreRedis  SessionStoreType = "Redis"
)

// SessionFailure is what becomes of a request whose conversation cannot be read.
type SessionFailure string

// The failures.
const (
	SessionFailOpen SessionFailure = "Open"
	SessionFailDeny SessionFailure = "Deny"
)

// SessionKey is a key that encrypts conversations.
type SessionKey struct {
	// SecretRef holds the key.
	SecretRef SecretRef `json:"secretRef"`
}

// SessionSummary has a model sum up old turns. The sum stands before the turns that are added to a request, as a turn of the system.
type SessionSummary struct {
	// Model that sums up, by a name that callers use; a cheap one does.
	Model ModelName `json:"model"`
	// AfterTokens of turns that are kept, estimated, the older ones are summed up.
	// +optional
	// +kubebuilder:default=4000
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=10000000
	AfterTokens int64 `json:"afterTokens,omitempty"`
	// KeepTurns stay as they were said. Without it: as many as history.turns, and one at least.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	KeepTurns *int32 `json:"keepTurns,omitempty"`
	// MaxTokens of a summary.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=100000
	MaxTokens int64 `json:"maxTokens,omitempty"`
	// Instructions for the model, instead of the built-in ones.
	// +optional
	// +kubebuilder:validation:MaxLength=8192
	Instructions string `json:"instructions,omitempty"`
	// Timeout of the call.
	// +optional
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('10m')",message="timeout must be from 100ms to 10m"
	Timeout *Duration `json:"timeout,omitempty"`
}

// SessionRule finds an intent, slots or entities in what is said.
//
// +kubebuilder:validation:XValidation:rule="has(self.pattern) != has(self.expression)",message="give pattern or expression, and not both"
// +kubebuilder:validation:XValidation:rule="[has(self.slot), has(self.entity), has(self.intent)].filter(x, x).size() <= 1",message="give one of slot, entity, intent"
// +kubebuilder:validation:XValidation:rule="has(self.pattern) || has(self.slot) || has(self.entity) || has(self.intent)",message="an expression needs a slot, an entity or an intent that it finds"
type SessionRule struct {
	// Name of the rule, as events and errors show it.
	Name ObjectName `json:"name"`
	// From is whose words are looked at.
	// +optional
	// +kubebuilder:default=User
	// +kubebuilder:validation:Enum=User;Assistant
	From SessionSpeaker `json:"from,omitempty"`
	// Pattern is a regular expression (RE2). Without slot, entity or intent each named group that matches is a slot of that name; with slot or
	// entity the group "value", else the first, else all that matches is its value.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Pattern string `json:"pattern,omitempty"`
	// Expression in CEL over text, slots, entities, state, intent and headers. For an intent it says whether it is there; else it gives the
	// value, or null for none.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Expression string `json:"expression,omitempty"`
	// Slot that gets the value.
	// +optional
	Slot SessionWord `json:"slot,omitempty"`
	// Entity that the value is one of.
	// +optional
	Entity SessionWord `json:"entity,omitempty"`
	// Intent that is there.
	// +optional
	Intent SessionWord `json:"intent,omitempty"`
}

// SessionWord names a slot, an entity, an intent, a state or an event.
//
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
type SessionWord string

// SessionSpeaker is whose words a rule looks at.
type SessionSpeaker string

// The speakers.
const (
	SessionUser      SessionSpeaker = "User"
	SessionAssistant SessionSpeaker = "Assistant"
)

// SessionExtraction has a model find intents, slots and entities: it is asked to call a tool with them.
//
// +kubebuilder:validation:XValidation:rule="has(self.slots) || has(self.intents) || has(self.entities)",message="say what to find: slots, intents or entities"
type SessionExtraction struct {
	// Model that is asked, by a name that callers use; a cheap one does.
	Model ModelName `json:"model"`
	// When After: once the answer has been given, which costs the caller no time. Before: guards and instructions of this request can
	// use what was found, and the request waits for it.
	// +optional
	// +kubebuilder:default=After
	// +kubebuilder:validation:Enum=After;Before
	When SessionWhen `json:"when,omitempty"`
	// Slots to fill.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Slots []SessionSlot `json:"slots,omitempty"`
	// Intents to tell apart.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Intents []SessionTerm `json:"intents,omitempty"`
	// Entities to find.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Entities []SessionTerm `json:"entities,omitempty"`
	// Instructions that are added to the built-in ones.
	// +optional
	// +kubebuilder:validation:MaxLength=8192
	Instructions string `json:"instructions,omitempty"`
	// MaxTokens of the model's answer.
	// +optional
	// +kubebuilder:default=512
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=100000
	MaxTokens int64 `json:"maxTokens,omitempty"`
	// Timeout of the call.
	// +optional
	// +kubebuilder:default="5s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('100ms') && duration(self) <= duration('10m')",message="timeout must be from 100ms to 10m"
	Timeout *Duration `json:"timeout,omitempty"`
}

// SessionWhen says when a model is asked.
type SessionWhen string

// The times.
const (
	SessionBefore SessionWhen = "Before"
	SessionAfter  SessionWhen = "After"
)

// SessionSlot is a slot that a model fills.
type SessionSlot struct {
	// Name of the slot.
	Name SessionWord `json:"name"`
	// Description for the model.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`
	// Type of the value.
	// +optional
	// +kubebuilder:default=string
	// +kubebuilder:validation:Enum=string;number;integer;boolean
	Type SessionSlotType `json:"type,omitempty"`
	// Values that it may have, for strings. Empty: any.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=256
	Values []string `json:"values,omitempty"`
}

// SessionSlotType is the type of a slot's value.
type SessionSlotType string

// The types.
const (
	SessionString  SessionSlotType = "string"
	SessionNumber  SessionSlotType = "number"
	SessionInteger SessionSlotType = "integer"
	SessionBoolean SessionSlotType = "boolean"
)

// SessionTerm is an intent or an entity that a model finds.
type SessionTerm struct {
	// Name of it.
	Name SessionWord `json:"name"`
	// Description for the model.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Description string `json:"description,omitempty"`
}

// SessionStateMachine follows the course of a conversation.
//
// +kubebuilder:validation:XValidation:rule="has(self.states) == has(self.transitions)",message="give states and transitions together, or neither for the built-in ones"
// +kubebuilder:validation:XValidation:rule="has(self.states) == has(self.initial)",message="give initial with states, and only then"
type SessionStateMachine struct {
	// Initial state of a conversation.
	// +optional
	Initial SessionWord `json:"initial,omitempty"`
	// States of the machine.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	States []SessionState `json:"states,omitempty"`
	// Transitions between them. Of those that an event allows, the first is taken.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Transitions []SessionTransition `json:"transitions,omitempty"`
	// Events that are found in what is said, beside the built-in ones: of the user's words confirm, deny, adjust, tool_result, user_message; of the
	// answer tool_call, proposal, question, answer. One of the same name replaces the built-in one; with several of a phase, the first that has a
	// transition is the one. Weir itself tells failed (there was no answer), aborted (the caller went away before it was whole) and timeout: those
	// names are taken.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Events []SessionEvent `json:"events,omitempty"`
}

// SessionState is one state.
//
// +kubebuilder:validation:XValidation:rule="has(self.timeout) == has(self.onTimeout)",message="give timeout and onTimeout together"
type SessionState struct {
	// Name of the state.
	Name SessionWord `json:"name"`
	// Timeout after which the state is left.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(h|m|s|ms)){1,4}$`
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('8784h')",message="timeout must be from 1s to 8784h"
	Timeout *Duration `json:"timeout,omitempty"`
	// OnTimeout is the state that it is left for.
	// +optional
	OnTimeout SessionWord `json:"onTimeout,omitempty"`
	// Instructions that are added to the system prompt of requests in this state. {{slot}} stands for the value of a slot.
	// +optional
	// +kubebuilder:validation:MaxLength=8192
	Instructions string `json:"instructions,omitempty"`
	// OnEnter are events that are told when the state is entered: a log line, a count, an entry in the conversation.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	OnEnter []SessionWord `json:"onEnter,omitempty"`
}

// SessionTransition leads from one state to another.
type SessionTransition struct {
	// From are the states that it leaves. Empty: any.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	From []SessionWord `json:"from,omitempty"`
	// To is the state that it enters; it may be the same.
	To SessionWord `json:"to"`
	// Event that it takes.
	Event SessionWord `json:"event"`
	// Guard is an expression in CEL over text, slots, entities, state, intent, headers and event that must be true.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Guard string `json:"guard,omitempty"`
}

// SessionEvent is found in what is said.
//
// +kubebuilder:validation:XValidation:rule="has(self.pattern) != has(self.expression)",message="give pattern or expression, and not both"
type SessionEvent struct {
	// Name of the event.
	Name SessionWord `json:"name"`
	// From is whose words are looked at.
	// +optional
	// +kubebuilder:default=User
	// +kubebuilder:validation:Enum=User;Assistant
	From SessionSpeaker `json:"from,omitempty"`
	// Pattern is a regular expression (RE2) that matches.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Pattern string `json:"pattern,omitempty"`
	// Expression in CEL over text, slots, entities, state, intent and headers that is true.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Expression string `json:"expression,omitempty"`
}
