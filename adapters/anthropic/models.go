package anthropic

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
)

// traits says what a Claude model takes, as far as its name tells. A name without a version (an
// alias, a model of another maker behind the same API) is treated as a current model that takes
// everything: what it does not take, its provider will say.
//
// Source: platform.claude.com/docs, pages "Extended thinking", "Adaptive thinking", "Structured
// outputs" and "Migrating to new models".
type traits struct {
	// budget: thinking is asked for as {type:enabled, budget_tokens}, adaptive is refused (3.7 to 4.5).
	budget bool
	// noThinking: there is none to ask for (before 3.7).
	noThinking bool
	// noSampling: temperature, top_p and top_k are refused unless default (4.7 and later).
	noSampling bool
	// noStrict: tools take no "strict" (before 4.5).
	noStrict bool
}

func traitsOf(model string) traits {
	major, minor, ok := claudeVersion(model)
	if !ok {
		return traits{}
	}
	before := func(a, b int) bool { return major < a || major == a && minor < b }
	return traits{
		noThinking: before(3, 7),
		budget:     !before(3, 7) && before(4, 6),
		noSampling: !before(4, 7),
		noStrict:   before(4, 5),
	}
}

// claudeVersion reads the version in names such as claude-3-5-sonnet-20241022, claude-opus-4-1,
// anthropic/claude-sonnet-4.5 and claude-opus-4-20250514: the first number of at most two digits,
// and the one right behind it.
func claudeVersion(model string) (major, minor int, ok bool) {
	_, rest, found := strings.Cut(strings.ToLower(model), "claude-")
	if !found {
		return 0, 0, false
	}
	for _, word := range strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune("-.@:/", r) }) {
		n, err := strconv.Atoi(word)
		number := err == nil && len(word) <= 2
		switch {
		case ok && number:
			return major, n, true
		case ok:
			return major, 0, true
		case number:
			major, ok = n, true
		}
	}
	return major, 0, ok
}

// budgets are thinking budgets in tokens for models that take no effort. The largest leaves room
// for an answer within the 32,000 output tokens of the smallest of those models.
var budgets = map[string]int64{
	"minimal": 1024, "low": 2048, "medium": 8192, "": 8192, "high": 16384, "xhigh": 24576, "max": 24576,
}

const (
	// defaultMaxTokens is used where neither caller nor configuration says one.
	defaultMaxTokens = 4096
	// thinkingMaxTokens is the same where the model thinks first, at a length of its own choosing,
	// and thinking counts as output.
	thinkingMaxTokens = 16384
)

// planThinking decides on thinking, max_tokens and what follows from them.
func (b *builder) planThinking() {
	r := b.req.Reasoning
	b.maxTokens = b.opts.DefaultMaxTokens
	if b.req.MaxTokens != nil {
		b.maxTokens = *b.req.MaxTokens
	}
	fallback := int64(defaultMaxTokens)
	switch {
	case r == nil:
	case r.Disabled:
		b.disableThinking = !b.traits.noThinking
	case b.traits.noThinking:
		b.Drop("reasoning")
	case r.BudgetTokens != nil || b.traits.budget:
		b.planBudget(r)
	default:
		b.effort = r.Effort
		if b.effort == "minimal" {
			b.effort = "low" // the least that Anthropic has
		}
		if b.forcedCall() {
			b.Drop("reasoning")
		} else {
			b.adaptive, fallback = true, thinkingMaxTokens
		}
	}
	if b.maxTokens <= 0 {
		b.maxTokens = fallback + b.budget
	}
}

// planBudget plans thinking of a given length. Anthropic refuses it together with a forced call, and
// in the middle of a tool loop whose assistant turn does not begin with its own signed thinking
// (history that another provider or another dialect has made never does).
func (b *builder) planBudget(r *canon.Reasoning) {
	if b.forcedCall() || b.unsignedToolLoop() {
		b.Drop("reasoning")
		return
	}
	budget := budgets[r.Effort]
	if r.BudgetTokens != nil {
		budget = max(minBudget, *r.BudgetTokens)
	}
	if b.maxTokens > 0 {
		// The budget must stay below max_tokens. One that the caller gave may come close; one that
		// was derived leaves half for the answer.
		limit := b.maxTokens / 2
		if r.BudgetTokens != nil {
			limit = b.maxTokens - 1
		}
		if b.req.MaxTokens == nil {
			// Only the configured default is in the way: raise it.
			limit = budget
			b.maxTokens += budget
		}
		budget = min(budget, limit)
	}
	if budget < minBudget {
		b.Drop("reasoning")
		return
	}
	b.budget = budget
}

// forcedCall reports that the model must call a tool, which excludes thinking.
func (b *builder) forcedCall() bool {
	c := b.req.ToolChoice
	return len(b.req.Tools) > 0 && c != nil && (c.Mode == canon.ChoiceRequired || c.Mode == canon.ChoiceTool)
}

// unsignedToolLoop reports that the conversation ends in tool results whose calls stand in an
// assistant turn without Anthropic's own thinking.
func (b *builder) unsignedToolLoop() bool {
	results := false // in the user's last turn, which may hold text as well
	for i := len(b.req.Messages) - 1; i >= 0; i-- {
		m := &b.req.Messages[i]
		switch m.Role {
		case canon.RoleTool:
			results = true
		case canon.RoleAssistant:
			if !results {
				return false
			}
			for j := range m.Parts {
				if m.Parts[j].Kind == canon.PartReasoning && b.printable(m.Role, &m.Parts[j]) {
					return false
				}
			}
			return true
		}
	}
	return false
}
