package limit

import (
	"testing"
	"time"
)

func TestRefusalsInWords(t *testing.T) {
	window := func(d time.Duration) func(*Rule) { return func(r *Rule) { r.Window = d } }
	for want, r := range map[string]Refusal{
		"the limit ns/a (60 requests per minute) is reached":          {Rule: rule("ns/a", Requests, 60)},
		"the limit of this API key (1 request per second) is reached": {Rule: rule(KeyRuleName, Requests, 1, window(time.Second))},
		"the limit ns/a (5 tokens per 10 minutes) is reached and too many requests wait for it already": {
			Rule: rule("ns/a", TotalTokens, 5, window(10*time.Minute)), Kind: QueueFull,
		},
		"the limit ns/a (1 input token per 2 s) is reached":              {Rule: rule("ns/a", InputTokens, 1, window(2*time.Second))},
		"the limit ns/a (2 output tokens per 24 hours) is reached":       {Rule: rule("ns/a", OutputTokens, 2, window(24*time.Hour))},
		"the limit ns/a (1 output token per 90 s) is reached":            {Rule: rule("ns/a", OutputTokens, 1, window(90*time.Second))},
		"the limit ns/a (2 tokens per 250 ms) is reached":                {Rule: rule("ns/a", TotalTokens, 2, window(250*time.Millisecond))},
		"the limit ns/a (1 token per 0.0005 s) is reached":               {Rule: rule("ns/a", TotalTokens, 1, window(500*time.Microsecond))},
		"the limit ns/a (1 request at once) is reached":                  {Rule: rule("ns/a", Concurrent, 1)},
		"the limit of this API key cannot be checked now: try again":     {Rule: rule(KeyRuleName, Requests, 1), Kind: StoreDown},
		"the request ended while it waited for the limit ns/a":           {Rule: rule("ns/a", Requests, 1), Kind: Canceled},
		"the budget ns/a per month does not cover this request any more": {Rule: budget("ns/a", 7), Kind: BudgetSpent},
		"this request may cost more than all that ns/a allows (money per month): make it shorter or ask for less output": {
			Rule: budget("ns/a", 7), Kind: TooLarge,
		},
		"this request asks for up to 9 tokens and the limit ns/a never holds more than 7: make it shorter or ask for less output": {
			Rule: rule("ns/a", TotalTokens, 7), Kind: TooLarge, Need: 9,
		},
	} {
		if got := r.Error(); got != want {
			t.Errorf("says %q\nwant %q", got, want)
		}
	}
}
