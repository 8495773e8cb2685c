package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// everybody is how many ask at once.
const everybody = 500

// TestCrowdRefused: many ask the same at once, and none of them may have it. Nobody waits for the refusals of the others, each is refused in its
// own dialect, and nothing is kept that says nothing of the request.
func TestCrowdRefused(t *testing.T) {
	statuses := []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusUnauthorized, http.StatusBadRequest}
	docs := []string{
		crowdPolicy("open", ""), crowdPolicy("mixed", ""),
		harness.Consumer("spent", crowdKey("spent"), "tenant: crowd"),
		harness.Document("Budget", "little", "targetRefs: [{kind: Consumer, name: poor}]\namount: \"0.000001\"\nperiod: Month\n"),
		limitPolicy("narrow", "{kind: Consumer, name: spent}", "limits: [{name: few, unit: TotalTokens, limit: 1, window: 1h}]"),
	}
	for _, status := range statuses {
		docs = append(docs, crowdPolicy(refusedModel("on", status), "negative: {}"), crowdPolicy(refusedModel("off", status), ""))
	}
	c := startCrowded(t, newStage(t), harness.Options{Documents: docs})
	for _, negative := range []string{"on", "off"} {
		for _, status := range statuses {
			t.Run(fmt.Sprintf("%d negative %s", status, negative), func(t *testing.T) { testProviderRefuses(t, c, negative, status) })
		}
	}
	t.Run("budget", func(t *testing.T) { testGatewayRefuses(t, c, "poor", "little") })
	t.Run("limit", func(t *testing.T) { testGatewayRefuses(t, c, "spent", "narrow") })
	t.Run("some of them", func(t *testing.T) { testSomeRefused(t, c) })
}

// refusedModel is the model that is refused with a status, under a policy that has negative caching on or off.
func refusedModel(negative string, status int) string { return fmt.Sprintf("%s-%d", negative, status) }

// testProviderRefuses: one call, one refusal, as everybody would get it without a cache.
func testProviderRefuses(t *testing.T, c *crowded, negative string, status int) {
	model := refusedModel(negative, status)
	size := everybody
	if status != http.StatusTooManyRequests {
		size /= 5 // it is the same way
	}
	var members []asker
	for i := range size {
		members = append(members, askerOf(i, "rich", model))
	}
	var alone []answer // without the cache
	for _, m := range members[:4] {
		c.stage.will(t, model, status, 0)
		alone = append(alone, c.must(t, m, "x-weir-cache-control", "no-store"))
	}
	before := c.stage.asked(model)
	release := c.stage.will(t, model, status, 1)
	answers := c.together(t, members, func() {
		c.WaitFor("all to want the answer", func() bool { return c.joined(model) == size-1 && c.stage.asked(model) == before+1 })
		release[0]()
	})
	for i, a := range answers {
		want := alone[i%4]
		got := checkError(t, members[i].dialect, a, want.status)
		if status == http.StatusUnauthorized && got == canon.BackendCredential { // who bought it speaks another dialect than this caller
			continue
		}
		if got != checkError(t, members[i].dialect, want, want.status) {
			t.Fatalf("answer %d: %s, and without the cache %s", i, a.body, want.body)
		}
		if got, want := a.header.Get("retry-after"), want.header.Get("retry-after"); got != want {
			t.Fatalf("answer %d: retry-after is %q, and without the cache %q", i, got, want)
		}
	}
	if got := outcomes(answers); got["miss"] != 1 || got["shared"] != size-1 {
		t.Errorf("the outcomes are %v", got)
	}
	if n := c.stage.asked(model) - before; n != 1 {
		t.Errorf("the provider had %d requests, want 1", n)
	}
	// What may be kept for a while is; nothing else is.
	keeps := negative == "on" && status == http.StatusBadRequest
	for i, m := range members[:4] {
		a := c.must(t, m)
		switch got := a.header.Get("x-weir-cache"); {
		case keeps:
			if got != "negative" || a.status != status || checkError(t, m.dialect, a, status) != checkError(t, m.dialect, alone[i], status) {
				t.Errorf("%+v later: %q %d %s", m, got, a.status, a.body)
			}
		case a.status != http.StatusOK || got != map[bool]string{true: "miss", false: "hit"}[i == 0] || m.said(t, a) != storyText(model, 0):
			t.Errorf("%+v later: %q %d %s", m, got, a.status, a.body)
		}
	}
	if n := c.stage.asked(model) - before; n != map[bool]int{true: 1, false: 2}[keeps] {
		t.Errorf("the provider had %d requests in all", n)
	}
}

// testGatewayRefuses: the refusals are of each caller alone, and cost the provider nothing.
func testGatewayRefuses(t *testing.T, c *crowded, consumer, policy string) {
	const model = "open"
	before := c.stage.asked(model)
	var members []asker
	for i := range everybody {
		members = append(members, askerOf(i, consumer, model))
	}
	for i, a := range c.together(t, members, func() {}) {
		if got := checkError(t, members[i].dialect, a, http.StatusTooManyRequests); !strings.Contains(got, policy) {
			t.Fatalf("answer %d: %s", i, a.body)
		}
	}
	if n := c.stage.asked(model) - before; n != 0 {
		t.Errorf("the provider had %d requests", n)
	}
	if n := c.Metric("weir_cache_flights"); n != 0 {
		t.Errorf("%v answers are still being bought", n)
	}
	// Another of the same tenant may have it, and then they may, too.
	if a := c.must(t, askerOf(0, "rich", model)); a.status != http.StatusOK || before == 0 && a.header.Get("x-weir-cache") != "miss" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	m := askerOf(3, consumer, model)
	if a := c.must(t, m); a.status != http.StatusOK || a.header.Get("x-weir-cache") != "hit" || m.said(t, a) != storyText(model, 0) {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	purge(t, c.Gateway, `{"model":"`+model+`"}`)
}

// testSomeRefused: of those who ask half have no budget. The others get the answer, which one of them buys.
func testSomeRefused(t *testing.T, c *crowded) {
	const model = "mixed"
	var members []asker
	for i := range everybody {
		members = append(members, askerOf(i/2, []string{"poor", "rich"}[i%2], model))
	}
	open := c.stage.will(t, model, 0, 1)
	var running atomic.Int64
	answers := c.together(t, members, func() {
		c.WaitFor("one to buy", func() bool {
			running.Store(int64(c.Metric("weir_relay_requests_running")))
			return c.stage.asked(model) == 1 && running.Load() >= everybody/2
		})
		open[0]()
	})
	want, refused := storyText(model, 1), 0
	for i, a := range answers {
		m := members[i]
		if m.key == crowdKey("poor") && a.status == http.StatusTooManyRequests {
			refused++
			if got := checkError(t, m.dialect, a, http.StatusTooManyRequests); !strings.Contains(got, "default/little") {
				t.Fatalf("answer %d: %s", i, a.body)
			}
			continue
		}
		if a.status != http.StatusOK || m.said(t, a) != want {
			t.Fatalf("answer %d of %s: %d %s", i, m.key, a.status, a.body)
		}
	}
	if n := c.stage.asked(model); n != 1 {
		t.Errorf("the provider had %d requests, want 1; %d were refused", n, refused)
	}
	c.WaitFor("the entries", func() bool {
		paid, entries := 0, 0
		for _, e := range c.Ledger() {
			if e.Model != model {
				continue
			}
			entries++
			if e.Cost > 0 {
				paid++
				if e.Consumer != "rich" || e.Cost != 2*storyParts*tokenCost {
					t.Fatalf("the entry is %+v", e)
				}
			}
		}
		return paid == 1 && entries == everybody-refused
	})
}
