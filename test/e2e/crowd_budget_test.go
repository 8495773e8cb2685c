package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/usage/ledger"
)

// TestCrowdBudget: a budget that cuts streams cuts none that others read. What it cuts is its own caller's, and is given to nobody else.
func TestCrowdBudget(t *testing.T) {
	const words = 3 * storyParts // of a story with two gates
	c := startCrowded(t, newStage(t), harness.Options{Documents: []string{
		crowdPolicy("shared", ""), crowdPolicy("too-much", ""),
		harness.Document("Budget", "purse", "targetRefs: [{kind: Consumer, name: poor}]\ncutStreams: true\namount: \"0.100\"\nperiod: Month\n"),
	}})
	ask := func(key, model string, max int, headers ...string) *http.Request {
		body := fmt.Sprintf(`{"model":%q,"stream":true,"temperature":0,"max_tokens":%d,"messages":[{"role":"user","content":"A story."}]}`, model, max)
		return request(t, c.Gateway, "POST", "/v1/chat/completions", "openai", body, append([]string{"authorization", "Bearer " + crowdKey(key)}, headers...)...)
	}
	whole := func(what string, a answer, cache, want string) {
		t.Helper()
		text, ended, err := streamText(a.body)
		if a.status != http.StatusOK || a.header.Get("x-weir-cache") != cache || text != want || !ended || err != nil || !strings.Contains(a.body, `"finish_reason":"stop"`) {
			t.Errorf("%s: %d %q, ended %v, %v: %q", what, a.status, a.header.Get("x-weir-cache"), ended, err, text)
		}
	}
	want := storyText("shared", 2)

	// The poor one buys what its budget has room for, and others read it.
	open := c.stage.will(t, "shared", 0, 2)
	buys := meanwhile(ask("poor", "shared", words+10))
	c.WaitFor("the first question", func() bool { return c.stage.asked("shared") == 1 })
	var follow []<-chan answer
	const followers = 20
	for range followers {
		follow = append(follow, meanwhile(ask("rich", "shared", words+10)))
	}
	c.WaitFor("the others", func() bool { return c.joined("shared") == followers })
	// Meanwhile it spends all the rest for itself: that stream is cut.
	alone := c.stage.will(t, "other", 0, 12)
	cut, resp, err := c.listen(t, "poor", "other")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the stream that nobody else reads: %v", err)
	}
	for i, open := range alone {
		open()
		must(t, cut.until((i+2)*storyParts))
	}
	if text, ended, err := streamText(cut.text.String()); !ended || err != nil || !strings.Contains(cut.text.String(), `"finish_reason":"length"`) ||
		text == storyText("other", 12) || !strings.HasPrefix(storyText("other", 12), strings.TrimSpace(text)) {
		t.Errorf("the stream that nobody else reads: %s", cut.text.String())
	}
	for _, open := range open {
		open()
	}
	whole("who buys", <-buys, "miss", want)
	for _, f := range follow {
		whole("who reads with it", <-f, "shared", want)
	}
	whole("who asks later", do(t, http.DefaultClient, ask("rich", "shared", words+10)), "hit", want)
	whole("the poor one later", do(t, http.DefaultClient, ask("poor", "shared", words+10)), "hit", want)
	if n := c.stage.asked("shared"); n != 1 {
		t.Errorf("the provider had %d requests, want 1", n)
	}

	// What it has no budget for it cannot buy, but it may read what another buys.
	quiet(t, c.Gateway)
	a := do(t, http.DefaultClient, ask("poor", "too-much", 90))
	checkSpent(t, "openai", a, "default/purse")
	open = c.stage.will(t, "too-much", 0, 2)
	buys = meanwhile(ask("rich", "too-much", 90))
	c.WaitFor("the second question", func() bool { return c.stage.asked("too-much") == 1 })
	reads := meanwhile(ask("poor", "too-much", 90))
	c.WaitFor("the poor one", func() bool { return c.joined("too-much") == 1 })
	for _, open := range open {
		open()
	}
	whole("who can pay", <-buys, "miss", storyText("too-much", 2))
	whole("who cannot", <-reads, "shared", storyText("too-much", 2))

	// What is past the cache is cut, and is not kept.
	const entries = 1 + followers + 1 + 2 + 2
	var all []ledger.Entry
	c.WaitFor("the entries", func() bool { all = c.Ledger(); return len(all) >= entries })
	var paid []string
	for _, e := range all {
		switch {
		case e.Cost == 0 && e.Cached && !e.Flags.Cut && e.Tokens.Total() == 0:
			continue
		case e.Model == "other" && e.Consumer == "poor" && e.Flags.Cut && e.Cost == e.Tokens.OutputTotal()*tokenCost:
		case e.Model == "shared" && e.Consumer == "poor" && !e.Flags.Cut && e.Cost == words*tokenCost && e.Cache == "miss":
		case e.Model == "too-much" && e.Consumer == "rich" && !e.Flags.Cut && e.Cost == words*tokenCost && e.Cache == "miss":
		default:
			t.Errorf("the entry is %+v", e)
		}
		paid = append(paid, e.Model)
	}
	if len(all) != entries || len(paid) != 3 {
		t.Errorf("%d entries, want %d; paid were %q", len(all), entries, paid)
	}
}
