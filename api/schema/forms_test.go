package schema

import (
	"strings"
	"testing"
)

// TestForms: each mistake of form is told once, in words, with what to write instead.
func TestForms(t *testing.T) {
	v := newValidator(t)
	object1 := func(kind, spec string) string {
		return "apiVersion: weir.dev/v1alpha1\nkind: " + kind + "\nmetadata: {name: a}\nspec: " + spec
	}
	target := "targetRefs: [{kind: LLMGateway, name: main}], "
	budget := func(amount string) string {
		return object1("Budget", "{period: Day, "+target+"amount: "+amount+"}")
	}
	limit := func(rest string) string {
		return object1("LimitPolicy", "{"+target+"limits: [{name: a, unit: Cost, "+rest+"}]}")
	}
	prices := func(price string) string {
		return backend("{dialect: openai, url: 'https://x', prices: [{" + price + "}]}")
	}
	redis := func(address string) string {
		return object1("LLMGateway", "{listeners: [{name: a, port: 1}], sharedState: {redis: {addresses: ['"+address+"']}}}")
	}
	key := func(rest string) string { return object1("APIKey", "{consumer: a, secretRef: {env: A}, "+rest+"}") }
	const quantities = `write a number, with a decimal point where it needs one, and k, M or G (or Ki, Mi, Gi) for many: 500, 400k, "12.50"`
	const durations = "write a length of time in whole hours, minutes, seconds or milliseconds: 250ms, 30s, 5m, 1h30m"
	const addresses = "write host:port alone, such as redis.example:6379 or [2001:db8::1]:6379"
	const suffixes = `the suffixes n, u and m are not for money: write `
	for _, c := range []struct {
		doc  string
		want []string // the errors, all of them
	}{
		{budget("12.50"), []string{`spec.amount: Invalid value: 12.5: write it in quotes: "12.50"`}},
		{budget("12.345"), []string{`spec.amount: Invalid value: 12.345: write it in quotes: "12.345"`}},
		{budget("'2,50'"), []string{`spec.amount: Invalid value: "2,50": write "2.50"`}},
		{budget("400K"), []string{`spec.amount: Invalid value: "400K": write 400k (a thousand of it) or 400Ki (1024)`}},
		{budget("32MB"), []string{`spec.amount: Invalid value: "32MB": write 32Mi`}},
		{budget("true"), []string{"spec.amount: Invalid value: true: " + quantities}},
		{budget("a lot"), []string{`spec.amount: Invalid value: "a lot": ` + quantities}},
		{budget("[1]"), []string{"spec.amount: Invalid value: " + quantities}},
		{budget("5m"), []string{`spec.amount: Invalid value: "5m": ` + suffixes + `it as a decimal number in quotes, such as "0.005"`}},
		{budget("-1"), []string{"spec.amount: Invalid value: -1: amount must be a quantity above 0 and at most 1G"}},
		{budget("'12.50'"), nil},
		{limit("limit: 1.5, burst: 2.25, algorithm: TokenBucket, window: 60"), []string{
			`spec.limits[0].burst: Invalid value: 2.25: write it in quotes: "2.25"`, `spec.limits[0].limit: Invalid value: 1.5: write it in quotes: "1.50"`,
			"spec.limits[0].window: Invalid value: 60: write 60s"}},
		{limit("limit: 5n, burst: 7u, algorithm: TokenBucket, window: 60s"), []string{"spec.limits[0]: Invalid value: " + suffixes + "limit", "spec.limits[0]: Invalid value: " + suffixes + "burst"}},
		{limit("limit: 1, window: '60'"), []string{`spec.limits[0].window: Invalid value: "60": write 60s`}},
		{limit("limit: 1, window: 1d"), []string{`spec.limits[0].window: Invalid value: "1d": write 24h: the units are h, m, s and ms`}},
		{limit("limit: 1, window: 2w"), []string{`spec.limits[0].window: Invalid value: "2w": write 336h`}},
		{limit("limit: 1, window: 1m, maxWait: -5s"), []string{`spec.limits[0].maxWait: Invalid value: "-5s": it cannot be negative; ` + durations}},
		{limit("limit: 1, window: 0.5s"), []string{`spec.limits[0].window: Invalid value: "0.5s": ` + durations}},
		{object1("LimitPolicy", "{"+target+"limits: [{name: a, unit: Requests, limit: 1, window: 1m}, {name: a, unit: Requests, limit: 2, window: 1h}]}"),
			[]string{`spec.limits[1]: Duplicate value: an item before it has the same name, "a": give each its own`}},
		{prices("input: 2.5, output: 1"), []string{`spec.prices[0].input: Invalid value: 2.5: write it in quotes: "2.50"`, `spec.prices[0].output: Invalid value: 1: write it in quotes: "1"`}},
		{prices("input: '2,50', output: '1e3'"), []string{`spec.prices[0].input: Invalid value: "2,50": write "2.50"`, `spec.prices[0].output: Invalid value: "1e3": write an amount in quotes`}},
		{prices("input: '1', output: '1', effectiveFrom: 2026-11-01"), []string{`spec.prices[0].effectiveFrom: Invalid value: "2026-11-01": write 2026-11-01T00:00:00Z: a day needs a time`}},
		{prices("input: '1', output: '1', effectiveFrom: 2026-13-01T00:00:00Z"), []string{`spec.prices[0].effectiveFrom: Invalid value: "2026-13-01T00:00:00Z": write a day and a time as in 2026-11-01T00:00:00Z`}},
		{redis("redis://r:6379"), []string{`spec.sharedState.redis.addresses[0]: Invalid value: "redis://r:6379": leave out redis://; ` + addresses}},
		{redis("rediss://r:6379"), []string{`spec.sharedState.redis.addresses[0]: Invalid value: "rediss://r:6379": leave out rediss:// and set tls; ` + addresses}},
		{redis("redis://:hunter2@r:6379"), []string{`spec.sharedState.redis.addresses[0]: Invalid value: a password is given by passwordRef; ` + addresses}},
		{redis("r"), []string{`spec.sharedState.redis.addresses[0]: Invalid value: "r": the port is missing; ` + addresses}},
		{key("allowedCIDRs: [10.1.0.0/16, 10.0.0.1, '2001:db8::/32', x]"), []string{
			`spec.allowedCIDRs[1]: Invalid value: "10.0.0.1": write a network such as`, `spec.allowedCIDRs[3]: Invalid value: "x": write a network such as`}},
		{key("expiresAt: '2027-01-01'"), []string{`spec.expiresAt: Invalid value: "2027-01-01": write 2027-01-01T00:00:00Z: a day needs a time`}},
	} {
		_, errs := v.Validate(object(t, c.doc))
		for i, e := range errs {
			if i >= len(c.want) || !strings.HasPrefix(e.Error(), c.want[i]) {
				t.Errorf("%s:\n got  %s\n want %q", c.doc, e, c.want)
			}
			if strings.Contains(e.Error(), "hunter2") {
				t.Errorf("a password is in %v", e)
			}
		}
		if len(errs) < len(c.want) {
			t.Errorf("%s: got %v, want %q", c.doc, errs, c.want)
		}
	}
}

// TestFormsAreOfTheDefinitions: a pattern that is changed in the API and not here would be shown raw again.
func TestFormsAreOfTheDefinitions(t *testing.T) {
	v := newValidator(t)
	var all strings.Builder
	for _, k := range v.names {
		c, err := v.kinds[k].compile()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.structural.ToKubeOpenAPI().MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	for _, pattern := range []string{durationPattern, quantityPattern, pricePattern, timePattern, addressPattern} {
		if _, ok := formOf(pattern); !ok {
			t.Errorf("%s has no form", pattern)
		}
		if quoted := strings.ReplaceAll(pattern, `\`, `\\`); !strings.Contains(all.String(), quoted) {
			t.Errorf("no definition has the pattern %s", pattern)
		}
	}
}

func TestValueAt(t *testing.T) {
	obj := map[string]any{"a": []any{map[string]any{"b": "x"}}}
	for path, want := range map[string]any{"a[0].b": "x", "a[1].b": nil, "a[0].c": nil, "a.b": nil, "a[x]": nil, "b[0]": nil, "a[-1]": nil, "a[0": obj["a"].([]any)[0]} {
		got := valueAt(obj, path)
		if m, ok := got.(map[string]any); ok {
			got = m["b"]
			want = "x"
		}
		if got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
}
