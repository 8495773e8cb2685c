package weigh

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Text is the reason in words: "GPU 91 % > 85 % x0.7".
func (r Reason) Text() string {
	switch r.Rule {
	case RuleGPU:
		return "GPU " + r.line(share, ">") + r.times()
	case RuleGPUPool:
		return "GPU " + share(r.Value) + " above the pool's " + share(r.Line) + r.times()
	case RuleGPUMemory:
		return "GPU memory " + r.line(share, ">") + r.times()
	case RuleKV:
		return "KV cache " + r.line(share, ">") + r.times()
	case RuleQueue:
		return "queue " + r.line(span, ">") + r.times()
	case RuleHeadroom:
		return "rate limit headroom " + r.line(share, "<") + r.times()
	case RuleErrors:
		return "errors " + share(r.Value) + r.times()
	case RuleStale:
		return "metrics " + span(r.Value) + " old" + r.times()
	case RuleLatency:
		return "latency" + r.times()
	case RulePeers:
		return "time to the first token " + number(r.Value) + " times that of the rule's Backends" + r.times()
	case RulePrice:
		return "price " + number(r.Value) + " times the cheapest" + r.times()
	case RuleWarmUp:
		return "warm-up " + span(r.Value) + " of " + span(r.Line) + r.times()
	case RuleFloor:
		return "floor " + share(r.Line) + r.times()
	case RuleStep:
		return "at most " + share(r.Line) + " a step" + r.times()
	case RuleHealth:
		return r.health()
	case RuleBreaker:
		if !r.Held {
			return "circuit breaker open"
		}
		if r.Factor > 0 {
			return "circuit breaker half open" + r.times()
		}
		return "circuit breaker half open"
	case RuleBlocked:
		if r.Factor > 0 {
			return "answered 429, to be tried again in " + span(r.Value) + "; asked nevertheless, there is no other"
		}
		return "answered 429, to be tried again in " + span(r.Value)
	case RulePanic:
		return fmt.Sprintf("health checks failed, but less than %s of the pool are left", share(r.Line))
	}
	return r.Rule + r.times()
}

func (r *Reason) health() string {
	if !r.Held {
		return fmt.Sprintf("%.0f health checks failed in a row", r.Value)
	}
	return fmt.Sprintf("health checks failed, %.0f of %.0f passed since", r.Value, r.Line)
}

// line is the value and the line it is held against; beyond is how it lies when the rule begins to apply.
func (r *Reason) line(unit func(float64) string, beyond string) string {
	if !r.Held {
		return unit(r.Value) + " " + beyond + " " + unit(r.Line)
	}
	if beyond == ">" {
		return unit(r.Value) + ", not yet < " + unit(r.Line)
	}
	return unit(r.Value) + ", not yet > " + unit(r.Line)
}

func (r *Reason) times() string { return " x" + factor(r.Factor) }

// share is a part as percent, with a decimal where it has one.
func share(v float64) string { return number(math.Round(v*1000)/10) + " %" }

// number has at most one decimal.
func number(v float64) string { return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") }

// factor has two digits after the point, or two that count.
func factor(v float64) string {
	if v >= 0.1 || v <= 0 {
		return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// span is a time in the unit that one speaks of it in.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d < time.Second {
		return strconv.FormatInt(int64(math.Round(seconds*1000)), 10) + " ms"
	}
	if d < time.Hour {
		return number(seconds) + " s"
	}
	return d.Round(time.Second).String()
}

// Explain is the whole story of a weight: "GPU 91 % > 85 % x0.7; queue 620 ms > 500 ms x0.5; latency x0.82 -> 287".
func (r *Result) Explain() string {
	var b strings.Builder
	if r.Base != 1 {
		fmt.Fprintf(&b, "base %s; ", strconv.FormatFloat(r.Base, 'f', -1, 64))
	}
	for i, why := range r.Reasons {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(why.Text())
	}
	if len(r.Reasons) == 0 {
		b.WriteString("no rule applies")
	}
	fmt.Fprintf(&b, " -> %d", r.Weight)
	return b.String()
}
