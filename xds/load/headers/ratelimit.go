package headers

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/load/signal"
)

// limit is a rate limit of a public API: the headers of what it allows in a time, and of what is left of it.
type limit struct{ allowed, left string }

func limits() [6]limit {
	return [...]limit{
		// OpenAI, Azure OpenAI, Groq and others.
		{"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"},
		{"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens"},
		// Anthropic.
		{"anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"},
		{"anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining"},
		{"anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining"},
		{"anthropic-ratelimit-output-tokens-limit", "anthropic-ratelimit-output-tokens-remaining"},
	}
}

// MaxRetryAfter bounds what RetryAfter gives. Limits for a day are the longest in use.
const MaxRetryAfter = 24 * time.Hour

// RateLimits reads how much is left of the rate limit of which the least is left. Without limits the sample is empty. Limits that are
// malformed, or that an API does not tell in full, are left out; but where nothing is left, nothing is left of whatever it is.
func RateLimits(get func(string) string, at time.Time) signal.Sample {
	var s signal.Sample
	for _, l := range limits() {
		left, ok := amount(get(l.left))
		if !ok {
			continue
		}
		part := 0.0
		if left > 0 {
			allowed, ok := amount(get(l.allowed))
			if !ok || allowed == 0 {
				continue
			}
			part = min(left/allowed, 1)
		}
		if !s.Has.Has(signal.Headroom) || part < s.Headroom {
			s.At, s.Headroom, s.Has = at, part, s.Has.With(signal.Headroom)
		}
	}
	return s
}

// RetryAfter is how long an API wants to be left alone, in whole seconds or until a date (RFC 9110, 10.2.3), up to MaxRetryAfter; false if
// it does not say so, or not in a way that can be read. A date in the past is 0.
func RetryAfter(get func(string) string, now time.Time) (time.Duration, bool) {
	value := strings.TrimSpace(get(wire.RetryAfter))
	if value == "" {
		return 0, false
	}
	if s, ok := amount(value); ok {
		return time.Duration(min(s, MaxRetryAfter.Seconds()) * float64(time.Second)), true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(date.Sub(now), 0), MaxRetryAfter), true
}

// amount is a number that is not negative. Azure writes -1 for what it does not know.
func amount(text string) (float64, bool) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && v >= 0 && !math.IsInf(v, 1)
}
