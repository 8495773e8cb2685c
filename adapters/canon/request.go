// Package canon is the form in the middle: one LLM exchange, told in no provider's dialect.
//
// A dialect folder parses its own wire format into these types and prints them back out. Nothing
// here does I/O, keeps state between calls or knows a provider's name.
//
// Scope: what at least two dialects can say. A field that only one dialect has passes untouched
// between two ends of that dialect (no translation takes place then); when the ends differ it is
// reported in Call.Dropped or refused, never silently guessed.
package canon

import "encoding/json"

// Role says who speaks a Message.
type Role string

// The roles. Developer is kept apart from System because OpenAI ranks them differently; a dialect
// without it treats it as System.
const (
	RoleSystem    Role = "system"
	RoleDeveloper Role = "developer"
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
	RoleTool      Role = "tool"
)

// RoleOf is the role of that name; ok is false where there is none.
func RoleOf(name string) (r Role, ok bool) {
	for _, r := range [...]Role{RoleUser, RoleAssistant, RoleTool, RoleSystem, RoleDeveloper} {
		if string(r) == name {
			return r, true
		}
	}
	return "", false
}

// Request is one generation request. Pointers are nil where the caller said nothing. Its strings may share their bytes with the body
// it was read from: what outlives the request must be cloned.
type Request struct {
	Model    string
	Messages []Message // in the caller's order; system turns stand where the caller put them

	Tools             []Tool
	ToolChoice        *ToolChoice
	ParallelToolCalls *bool

	MaxTokens        *int64 // output tokens, reasoning included
	Temperature      *float64
	TopP             *float64
	TopK             *int64
	PresencePenalty  *float64
	FrequencyPenalty *float64
	Seed             *int64
	Stop             []string

	Stream       bool
	IncludeUsage bool // the caller asked for usage at the end of a stream

	Format    *Format
	Reasoning *Reasoning
	User      string // end-user identifier, opaque

	// Extra names top-level request fields that the inbound dialect knows and canon cannot carry
	// ("logit_bias", "service_tier"), in the order they were met. An outbound adapter adds them to
	// Call.Dropped.
	Extra []string
}

// Message is one turn. A tool result is a Message with RoleTool whose Parts are of kind PartToolResult.
type Message struct {
	Role  Role
	Name  string
	Parts []Part
}

// PartKind tells which fields of a Part are set.
type PartKind uint8

// The kinds of Part.
const (
	PartText       PartKind = iota // Text
	PartImage                      // Image
	PartToolCall                   // Call
	PartToolResult                 // Result
	PartReasoning                  // Text, Signature, Origin
	PartRefusal                    // Text
)

// Part is one piece of a Message: a small union, one allocation for a whole slice.
type Part struct {
	Kind   PartKind
	Text   string
	Image  *Image
	Call   *ToolCall
	Result *ToolResult

	// Signature and Origin belong to PartReasoning. Signature is opaque; it may only return to the
	// dialect named in Origin.
	Signature string
	Origin    string
	// CacheMark says that the caller marked a prompt-cache boundary after this part.
	CacheMark bool
}

// Image is given by URL or by content, never both.
type Image struct {
	URL       string // http or https
	MediaType string // "image/png"; set with Data
	Data      string // base64, standard alphabet, padded
	Detail    string // "", "auto", "low", "high"
}

// ToolCall is a call the model made. Arguments is the JSON text of an object.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string
}

// ToolResult answers the ToolCall with the same ID.
type ToolResult struct {
	ID      string
	Name    string // the tool's name where the dialect gives it
	Parts   []Part // text and images
	IsError bool
}

// Tool is a function the model may call.
type Tool struct {
	Name        string
	Description string
	Parameters  json.RawMessage // a JSON Schema object; nil when the caller gave none
	Strict      *bool
	CacheMark   bool
}

// ToolChoiceMode says whether the model must call a tool.
type ToolChoiceMode string

// The tool choice modes. ChoiceTool requires ToolChoice.Name.
const (
	ChoiceAuto     ToolChoiceMode = "auto"
	ChoiceNone     ToolChoiceMode = "none"
	ChoiceRequired ToolChoiceMode = "required"
	ChoiceTool     ToolChoiceMode = "tool"
)

// ToolChoice is the caller's wish about tools.
type ToolChoice struct {
	Mode ToolChoiceMode
	Name string
}

// FormatKind is the shape asked of the answer's text.
type FormatKind string

// The formats. FormatSchema requires Format.Schema.
const (
	FormatText   FormatKind = "text"
	FormatJSON   FormatKind = "json_object"
	FormatSchema FormatKind = "json_schema"
)

// Format asks for structured output.
type Format struct {
	Kind   FormatKind
	Name   string
	Schema json.RawMessage
	Strict *bool
}

// Reasoning asks for, bounds or forbids thinking.
type Reasoning struct {
	Disabled     bool
	Effort       string // "", "minimal", "low", "medium", "high", "xhigh", "max"
	BudgetTokens *int64
}

// SizeHint estimates the bytes of the request as JSON in any dialect, so that a builder copies a long prompt once.
func (r *Request) SizeHint() int {
	n := 512
	for i := range r.Messages {
		n += 64
		for j := range r.Messages[i].Parts {
			p := &r.Messages[i].Parts[j]
			n += 64 + len(p.Text) + len(p.Signature)
			switch {
			case p.Image != nil:
				n += 64 + len(p.Image.Data) + len(p.Image.URL)
			case p.Call != nil:
				n += 128 + len(p.Call.Arguments)
			case p.Result != nil:
				for k := range p.Result.Parts {
					n += 64 + len(p.Result.Parts[k].Text)
				}
			}
		}
	}
	for i := range r.Tools {
		n += 96 + len(r.Tools[i].Description) + len(r.Tools[i].Parameters)
	}
	return n + n/16 // escapes
}
