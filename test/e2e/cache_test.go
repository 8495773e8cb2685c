package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim"
)

// cacheAll keeps every answer to the requests of the Route all.
func cacheAll(spec string) string {
	return harness.Document("CachePolicy", "cache", "targetRefs: [{kind: Route, name: all}]\n"+spec)
}

// said is the text of a chat's plain answer, by its dialect.
func said(t *testing.T, dialect string, a answer) string {
	t.Helper()
	var body struct {
		Choices []struct{ Message struct{ Content string } }
		Content []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if dialect == "anthropic" && len(body.Content) > 0 {
		return body.Content[0].Text
	}
	if len(body.Choices) > 0 {
		return body.Choices[0].Message.Content
	}
	t.Fatalf("no answer in %s", a.body)
	return ""
}

// An answer is bought once. Who asks for it again gets it from memory, whatever their dialect, plain or as a stream, and pays nothing.
func TestCacheHits(t *testing.T) {
	r := startRemembering(t, cacheAll(""))
	first := r.say(t, "openai", "gpt-4o", "Hello", false)
	if first.status != 200 || first.header.Get("x-weir-cache") != "miss" || first.header.Get("age") != "" {
		t.Fatalf("the first answer: %d %v %s", first.status, first.header, first.body)
	}
	want := said(t, "openai", first)
	again := r.say(t, "openai", "gpt-4o", "Hello", false)
	if again.status != 200 || again.header.Get("x-weir-cache") != "hit" || again.body != first.body {
		t.Errorf("the second answer: %d %q\n%s\nwant\n%s", again.status, again.header.Get("x-weir-cache"), again.body, first.body)
	}
	if _, err := strconv.Atoi(again.header.Get("age")); err != nil {
		t.Errorf("the age of a hit is %q", again.header.Get("age"))
	}
	if got := again.header.Get("x-weir-route"); got != "default/all" {
		t.Errorf("the route of a hit is %q", got)
	}
	other := r.say(t, "anthropic", "gpt-4o", "Hello", false)
	if other.header.Get("x-weir-cache") != "hit" || said(t, "anthropic", other) != want {
		t.Errorf("the answer in the other dialect: %q %s, want %q", other.header.Get("x-weir-cache"), other.body, want)
	}
	for _, dialect := range []string{"openai", "anthropic"} {
		a := r.say(t, dialect, "gpt-4o", "Hello", true)
		text, ended, err := streamText(a.body)
		if a.header.Get("x-weir-cache") != "hit" || text != want || !ended || err != nil {
			t.Errorf("the stream of %s: %q %q %v %v, want %q", dialect, a.header.Get("x-weir-cache"), text, ended, err, want)
		}
	}
	if r.asked() != 1 {
		t.Errorf("the providers had %d requests, want 1", r.asked())
	}
	bought, kept := 0, 0
	for _, e := range r.entries(t, 5) {
		switch {
		case e.Cache == "miss" && e.Cost > 0 && e.Tokens.Total() > 0 && !e.Cached && e.Backend == "default/oa":
			bought++
		case e.Cache == "hit" && e.Cached && e.Cost == 0 && e.Tokens.Total() == 0 && e.Status == 200 && e.Backend == "" && e.RequestID != "":
			kept++
		default:
			t.Errorf("entry %+v", e)
		}
	}
	if bought != 1 || kept != 4 {
		t.Errorf("%d bought and %d kept, want 1 and 4", bought, kept)
	}
	if got := r.Metric("weir_requests_total"); got != 5 {
		t.Errorf("weir_requests_total is %v, want 5", got)
	}
	if got := r.Metric("weir_tenant_requests_total", "tenant", "app"); got != 5 {
		t.Errorf("weir_tenant_requests_total is %v, want 5", got)
	}
}

// What a caller says of the cache counts, and what is kept for one tenant is nothing to another.
func TestCacheControl(t *testing.T) {
	r := startRemembering(t, cacheAll(""))
	outcome := func(headers ...string) string {
		t.Helper()
		a := r.say(t, "openai", "gpt-4o", "Hello", false, headers...)
		if a.status != 200 {
			t.Fatalf("%v: %d %s", headers, a.status, a.body)
		}
		return a.header.Get("x-weir-cache")
	}
	if a := r.say(t, "openai", "gpt-4o", "Hello", false, "x-weir-cache-control", "only-if-cached"); a.status != 504 {
		t.Errorf("only-if-cached of what is not kept: %d %s", a.status, a.body)
	}
	for i, c := range []struct {
		want    string
		headers []string
	}{
		{"", []string{"x-weir-cache-control", "no-store"}},
		{"miss", nil},
		{"hit", nil},
		{"miss", []string{"x-weir-cache-control", "no-cache"}},
		{"hit", []string{"x-weir-cache-control", "only-if-cached"}},
		{"miss", []string{"x-weir-prompt-version", "2"}},
		{"hit", []string{"x-weir-prompt-version", "2"}},
		{"miss", []string{"authorization", "Bearer " + relayOther}},
		{"hit", []string{"authorization", "Bearer " + relayOther}},
		{"hit", nil},
	} {
		if got := outcome(c.headers...); got != c.want {
			t.Errorf("request %d, %v: %q, want %q", i, c.headers, got, c.want)
		}
	}
	if r.asked() != 5 {
		t.Errorf("the providers had %d requests, want 5", r.asked())
	}
	if a := r.say(t, "openai", "gpt-4o", "Hello", false, "x-weir-cache-control", "max-age=soon"); a.status != 400 {
		t.Errorf("a directive that makes no sense: %d %s", a.status, a.body)
	}
	for _, s := range r.openai.Requests() {
		for name := range s.Header {
			if strings.HasPrefix(strings.ToLower(name), "x-weir-") {
				t.Errorf("a backend got the header %s", name)
			}
		}
	}
}

// stampede sends n equal requests at once and gives the answers.
func (r *remembering) stampede(t *testing.T, n int, stream bool) []answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: n, MaxIdleConnsPerHost: n}}
	t.Cleanup(client.CloseIdleConnections)
	out := make([]answer, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			body := strings.TrimSuffix(chatBody("gpt-4o", fmt.Sprintf("A story in 60 words, streamed %v.", stream), stream), "}") + `,"temperature":0}`
			resp, err := client.Do(request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", body))
			if err != nil {
				errs[i] = err
				return
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			out[i], errs[i] = answer{resp.StatusCode, resp.Header, string(text)}, err
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	return out
}

// Equal requests that come at once make one call to the provider, plain and as streams.
func TestCacheStampede(t *testing.T) {
	r := startRemembering(t, cacheAll(""))
	r.openai.Configure(sim.Faults{IntervalMin: sim.Duration(5 * time.Millisecond), IntervalMax: sim.Duration(10 * time.Millisecond)})
	const many = 200
	entries := 0
	for _, stream := range []bool{false, true} {
		before := r.asked()
		answers := r.stampede(t, many, stream)
		outcomes := map[string]int{}
		for i, a := range answers {
			if a.status != 200 || a.body != answers[0].body {
				t.Fatalf("stream %v, answer %d: %d %s\nwant\n%s", stream, i, a.status, a.body, answers[0].body)
			}
			outcomes[a.header.Get("x-weir-cache")]++
		}
		if n := r.asked() - before; n != 1 {
			t.Errorf("stream %v: the provider had %d requests, want 1", stream, n)
		}
		if outcomes["miss"] != 1 || outcomes["miss"]+outcomes["shared"]+outcomes["hit"] != many {
			t.Errorf("stream %v: %v", stream, outcomes)
		}
		entries += many
		paid := 0
		for _, e := range r.entries(t, entries) {
			if e.Cost > 0 && e.Stream == stream {
				paid++
			}
		}
		if paid != 1 {
			t.Errorf("stream %v: %d requests were paid for, want 1", stream, paid)
		}
	}
}

// The caller whose request buys the answer goes away: who waits with it gets all of it, and it is bought once.
func TestCacheLeaderLeaves(t *testing.T) {
	r := startRemembering(t, cacheAll(""))
	r.openai.Configure(sim.Faults{IntervalMin: sim.Duration(20 * time.Millisecond), IntervalMax: sim.Duration(20 * time.Millisecond)})
	body := strings.TrimSuffix(chatBody("gpt-4o", "A story in 60 words.", true), "}") + `,"temperature":0}`
	leader, err := http.DefaultClient.Do(request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", body))
	if err != nil {
		t.Fatal(err)
	}
	defer leader.Body.Close()
	piece := make([]byte, 64)
	if _, err := leader.Body.Read(piece); err != nil || leader.Header.Get("x-weir-cache") != "miss" {
		t.Fatalf("the leader: %q %v", leader.Header.Get("x-weir-cache"), err)
	}
	follower, err := http.DefaultClient.Do(request(t, r.Gateway, "POST", "/v1/chat/completions", "openai", body))
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Body.Close()
	if got := follower.Header.Get("x-weir-cache"); got != "shared" {
		t.Fatalf("the follower: %q", got)
	}
	leader.Body.Close()
	all, err := io.ReadAll(follower.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, ended, err := streamText(string(all))
	if err != nil || !ended || len(strings.Fields(text)) < 20 {
		t.Errorf("the follower got %q, ended %v, %v", text, ended, err)
	}
	if r.asked() != 1 {
		t.Errorf("the provider had %d requests, want 1", r.asked())
	}
	for _, e := range r.entries(t, 2) {
		switch e.Cache {
		case "miss":
			if e.Cost == 0 || e.Aborted {
				t.Errorf("the fill: %+v", e)
			}
		case "shared":
			if e.Cost != 0 || !e.Cached || e.Aborted {
				t.Errorf("the follower: %+v", e)
			}
		default:
			t.Errorf("entry %+v", e)
		}
	}
}

// Limits of requests count at the door, also for answers that are kept; those of tokens and money only for what is bought.
func TestCacheLimits(t *testing.T) {
	r := startRemembering(t, cacheAll(""),
		harness.Document("LimitPolicy", "requests", "targetRefs: [{kind: Consumer, name: app}]\nlimits: [{name: many, unit: Requests, limit: 4, window: 1h}]\n"),
		harness.Document("Budget", "little", "targetRefs: [{kind: Consumer, name: other}]\namount: \"0.000001\"\nperiod: Month\n"))
	for i, want := range []int{200, 200, 200, 200, 429} {
		a := r.say(t, "openai", "gpt-4o", "Hello", false)
		if a.status != want {
			t.Fatalf("request %d: %d %s", i, a.status, a.body)
		}
		if want == 200 && a.header.Get("x-ratelimit-remaining-requests") != strconv.Itoa(3-i) {
			t.Errorf("request %d: %q requests are left", i, a.header.Get("x-ratelimit-remaining-requests"))
		}
	}
	a := r.say(t, "openai", "gpt-4o", "Hello", false, "authorization", "Bearer "+relayOther)
	if a.status != 429 || !strings.Contains(a.body, "little") {
		t.Errorf("a fill over its budget: %d %s", a.status, a.body)
	}
	if r.asked() != 1 {
		t.Errorf("the providers had %d requests, want 1", r.asked())
	}
	r.entries(t, 4)
}
