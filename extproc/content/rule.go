// Package content collects the text of prompts and answers for the spans of their requests, where an LLMGateway asks for it. What it
// collects is bounded, redacted before it is cut, and forgotten when the request is over.
//
// Nothing here changes or delays a byte: the server hands over what it has read after it has answered Envoy.
package content

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"sync/atomic"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/identity"
)

// Rule is what an LLMGateway wants of the text of its requests. It is immutable.
type Rule struct {
	Input, Output bool
	// Models are callers' names; nil: every model.
	Models *identity.Patterns
	// Redact is replaced by Redacted wherever one of them matches.
	Redact []*regexp.Regexp
	// MaxBytes of text that are shown of each direction.
	MaxBytes int
}

// Redacted stands for what was taken out.
const Redacted = "[redacted]"

// slack is how many bytes behind those that are shown the expressions see: a match that begins in what is shown is
// found if it ends within them. Keys, certificates and cookies fit.
const slack = 16 << 10

// Expression compiles an expression of Rule.Redact. The error is a sentence without its end.
func Expression(text string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(text)
	var fault *syntax.Error
	if errors.As(err, &fault) {
		return nil, fmt.Errorf("%q is not a regular expression (RE2): %s: %q", text, fault.Code, fault.Expr)
	}
	return re, err
}

// Wants says what of a request is to be captured. Operations without text of a prompt (lists of models) and of which nothing is
// generated for anybody (the counting of tokens) have nothing; embeddings have an input and no output.
func (r *Rule) Wants(model string, op canon.Operation) (input, output bool) {
	if r == nil || r.Models != nil && !r.Models.Match(model) {
		return false, false
	}
	switch op {
	case canon.OpChat, canon.OpResponses, canon.OpCompletions:
		return r.Input, r.Output
	case canon.OpEmbeddings:
		return r.Input, false
	case canon.OpModels, canon.OpModel, canon.OpCountTokens:
	}
	return false, false
}

// slack of this rule.
func (r *Rule) slack() int {
	if len(r.Redact) == 0 {
		return 0
	}
	return slack
}

// Memory bounds what all requests of a process have captured together. It is safe for concurrent use.
type Memory struct {
	left atomic.Int64
}

// NewMemory makes a Memory of so many bytes.
func NewMemory(bytes int64) *Memory {
	m := &Memory{}
	m.left.Store(bytes)
	return m
}

// Left is how many bytes are free.
func (m *Memory) Left() int64 { return m.left.Load() }

// take reserves bytes, all or none.
func (m *Memory) take(n int64) bool {
	if m.left.Add(-n) >= 0 {
		return true
	}
	m.left.Add(n)
	return false
}

func (m *Memory) give(n int64) { m.left.Add(n) }
