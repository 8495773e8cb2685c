package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Severity says whether a problem stops a configuration from being used.
type Severity int

// The severities. A configuration with an Error is not used; the last good one keeps serving.
const (
	Error Severity = iota
	Warning
)

// String is "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Problem is one thing that is wrong with the objects, told to the person who wrote them.
type Problem struct {
	Object   ObjectRef // zero where no object could be made out
	Field    string    // spec.rules[0].backends[1].name; "" where the whole object is meant
	Message  string    // what is wrong and what to do; never a secret value
	File     string    // relative to the folder; "" for objects that do not come from a file
	Line     int       // 1-based; 0 where the whole file is meant
	Severity Severity
	Reason   Reason // what is wrong, for programs; "" is ReasonInvalid
	// UID of the object, where the source has left it out; "" for objects that are there, and where there is none.
	UID types.UID
}

// Reason says what is wrong, for programs: it becomes the reason of a condition.
type Reason string

// The reasons. A Problem without one is of ReasonInvalid.
const (
	// ReasonInvalid: the object by itself is wrong.
	ReasonInvalid Reason = "Invalid"
	// ReasonConflict: the object contradicts another one.
	ReasonConflict Reason = "Conflict"
	// ReasonRefNotFound: what it refers to does not exist, or cannot be used.
	ReasonRefNotFound Reason = "RefNotFound"
	// ReasonRefNotPermitted: it refers to what it may not.
	ReasonRefNotPermitted Reason = "RefNotPermitted"
	// ReasonSecretUnavailable: a value it refers to cannot be read.
	ReasonSecretUnavailable Reason = "SecretUnavailable"
	// ReasonNotAllowed: no LLMGateway takes the Route (spec.allowedRoutes).
	ReasonNotAllowed Reason = "NotAllowedByGateway"
	// ReasonUnsupported: it asks for what this source of objects does not have.
	ReasonUnsupported Reason = "Unsupported"
	// ReasonRefusedByEnvoy: Weir would serve it, but Envoy refuses what it comes to.
	ReasonRefusedByEnvoy Reason = "RefusedByEnvoy"
)

// Reference says whether the object by itself is right, and what it refers to is what is wrong.
func (r Reason) Reference() bool {
	return r == ReasonRefNotFound || r == ReasonRefNotPermitted || r == ReasonSecretUnavailable
}

// Because returns the problem with a reason.
func (p Problem) Because(r Reason) Problem {
	p.Reason = r
	return p
}

// String is one line: "routes.yaml:14: Route default/chat: spec.rules[0].backends[1].name: ...". A warning
// says so in front of the message.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Object != (ObjectRef{}) {
		b.WriteString(p.Object.String())
		b.WriteString(": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field)
		b.WriteString(": ")
	}
	if p.Severity == Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// SortProblems orders problems as a person reads files: by file, line, object, field.
func SortProblems(problems []Problem) {
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(
			strings.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			compareRefs(a.Object, b.Object),
			strings.Compare(a.Field, b.Field),
			cmp.Compare(a.Severity, b.Severity),
			strings.Compare(a.Message, b.Message),
			strings.Compare(string(a.Reason), string(b.Reason)),
		)
	})
}

// HasErrors says whether any problem is an Error.
func HasErrors(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Error })
}
