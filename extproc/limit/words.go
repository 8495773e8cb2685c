package limit

import (
	"fmt"
	"strconv"
	"time"
)

// KeyRuleName is the Name of the rules that API keys have of their own. Callers read of such a rule as of their key's.
const KeyRuleName = "APIKey"

// Error is a sentence for the caller. Of money it tells no amounts: the budget is not the caller's to know.
func (r *Refusal) Error() string {
	rule := r.Rule
	limit := amount(rule.Limit, rule.Unit) + rule.per()
	if rule.Unit == Cost {
		limit = "money" + rule.per()
	}
	switch r.Kind {
	case BudgetSpent:
		return fmt.Sprintf("the budget %s%s does not cover this request any more", rule.Name, rule.per())
	case TooLarge:
		if rule.Unit == Cost {
			return fmt.Sprintf("this request may cost more than all that %s allows (%s): make it shorter or ask for less output",
				rule.Name, limit)
		}
		return fmt.Sprintf("this request asks for up to %s and %s never holds more than %d: make it shorter or ask for less output",
			amount(r.Need, rule.Unit), rule.called(), rule.capacity())
	case StoreDown:
		return rule.called() + " cannot be checked now: try again"
	case QueueFull:
		return fmt.Sprintf("%s (%s) is reached and too many requests wait for it already", rule.called(), limit)
	case Canceled:
		return "the request ended while it waited for " + rule.called()
	case Limited:
	}
	return fmt.Sprintf("%s (%s) is reached", rule.called(), limit)
}

// called is how a sentence speaks of the rule.
func (r *Rule) called() string {
	if r.Name == KeyRuleName {
		return "the limit of this API key"
	}
	return "the limit " + r.Name
}

// per is the time that the limit is for, as in "100 requests per minute".
func (r *Rule) per() string {
	switch {
	case r.Unit == Concurrent:
		return ""
	case r.Algorithm == Calendar:
		return [...]string{" per day", " per week", " per month"}[r.Period]
	}
	return " per " + inWords(r.Window)
}

// amount is a number of units, as sentences name it.
func amount(n int64, u Unit) string {
	text := strconv.FormatInt(n, 10) + " "
	if n != 1 {
		return text + u.String()
	}
	switch u {
	case Requests:
		return text + "request"
	case InputTokens:
		return text + "input token"
	case OutputTokens:
		return text + "output token"
	case TotalTokens:
		return text + "token"
	case Concurrent:
		return text + "request at once"
	case Cost:
	}
	return text + u.String()
}

// inWords is a duration after "per": "minute", "10 minutes", "24 hours", "90 s", "250 ms".
func inWords(d time.Duration) string {
	for _, u := range [...]struct {
		d         time.Duration
		one, many string
	}{{time.Hour, "hour", " hours"}, {time.Minute, "minute", " minutes"}, {time.Second, "second", " s"}, {time.Millisecond, "millisecond", " ms"}} {
		switch {
		case d == u.d:
			return u.one
		case d > 0 && d%u.d == 0:
			return strconv.FormatInt(int64(d/u.d), 10) + u.many
		}
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}
