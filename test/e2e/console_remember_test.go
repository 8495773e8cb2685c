package e2e

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/weir-dev/weir/console/api"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// TestConsoleRemembers: what the cache and the sessions keep is on the page, in the API and in the terminal, and goes when it is told to.
func TestConsoleRemembers(t *testing.T) {
	t.Parallel()
	r := startRemembering(t, cacheAll("tags: [catalogue]\n"), harness.Document("SessionPolicy", "talk",
		"targetRefs: [{kind: Route, name: all}]\nrules: [{name: city, pattern: 'to (?P<city>[A-Z]\\w+)'}]\nstateMachine: {}\n"))
	say := func(text string, stream bool, headers ...string) string {
		t.Helper()
		a := r.say(t, "openai", "gpt-4o", text, stream, headers...)
		if a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return a.header.Get("x-weir-cache")
	}
	for i, want := range []string{"miss", "hit", "hit"} {
		if got := say("How high is a weir?", i == 2); got != want {
			t.Fatalf("request %d: %s", i, got)
		}
	}
	say("I want to go to Ulm", false, "x-weir-session", "trip/1")
	say("And to Wien", false, "x-weir-session", "trip/1")
	say("Hello", false, "x-weir-session", "other")

	var c api.Cache
	adminJSON(t, r.Gateway, "/api/cache", &c)
	if len(c.Policies) != 1 || c.Redis != "off" {
		t.Fatalf("%+v", c)
	}
	if got := c.Policies[0]; got.ID != "default/cache" || got.Hits.Memory != 2 || got.Misses != 4 || got.Entries != 4 || got.Bytes == 0 || got.SavedTokens.Input == 0 || got.SavedTokens.Output == 0 {
		t.Errorf("%+v", got)
	}
	if got := r.Metric("weir_cache_saved_tokens_total", "policy", "default/cache", "kind", "output"); got != float64(c.Policies[0].SavedTokens.Output) {
		t.Errorf("weir_cache_saved_tokens_total is %v", got)
	}

	who := []string{"--tenant", "app", "--consumer", "default/app"}
	if got := terminal(t, r, append([]string{"sessions", "set-state", "trip/1", "executing"}, who...)...); !strings.Contains(got, "executing") {
		t.Errorf("%s", got)
	}
	p := newBrowserPage(t, r.AdminURL)
	for _, page := range []struct {
		name, place string
		ready       func()
	}{
		{"cache", "cache", func() {
			p.shows(".tiles", "33%")
			p.shows(".table", "cache")
			p.shows(".table .share", "4 entries")
		}},
		{"sessions", "sessions", func() {
			p.shows(".table tbody", "trip/1")
			p.shows(".table tbody", "app")
		}},
		{"sessions-one", "sessions", func() {
			p.click(".table tbody a", "trip/1")
			p.shows(".drawer .table", "Wien")
			p.shows(".drawer .events", "executing")
			p.shows(".drawer", "Erase…")
		}},
		{"requests-cached", "requests?cache=hit", func() {
			p.shows(".req tbody", "hit")
			p.wait("only hits", `document.querySelectorAll('.req tbody tr').length === 2`)
			p.click(".req a.open", ":")
			p.shows(".drawer .steps", "was in the cache: it cost nothing")
		}},
	} {
		for _, theme := range []string{"light", "dark"} {
			p.theme(theme)
			p.open(page.place)
			p.live()
			page.ready()
			p.accessible(t)
			p.shot("console-" + page.name + "-" + theme)
		}
	}
	p.size(375, 812)
	for place, text := range map[string]string{"cache": "TTL", "sessions": "trip/1"} {
		p.open(place)
		p.live()
		p.shows(".table", text)
		if over := evalPage[int](p, `document.documentElement.scrollWidth`) - 375; over > 0 {
			t.Errorf("%s is %d pixels wider than a telephone", place, over)
		}
		p.shot("console-narrow-" + place)
	}
	p.size(1440, 1000)

	// A session is erased, after a second question.
	p.open("topology")
	p.live()
	p.press("g", "e")
	p.shows("h1", "Sessions")
	p.click(".table tbody a", "trip/1")
	p.click(".drawer button", "Erase…")
	p.wait("the safe choice to have the focus", `document.activeElement.textContent === 'Cancel'`)
	p.accessible(t)
	p.press("\x1b")
	p.wait("the question to be gone", `!document.querySelector('.confirm') && document.querySelector('.drawer')`)
	p.click(".drawer button", "Erase…")
	p.click(".drawer .confirm button", "Erase it")
	p.wait("the session to be gone", `!document.querySelector('.drawer') && !document.querySelector('.table tbody').textContent.includes('trip/1')`)
	if got := terminal(t, r, "sessions", "list"); strings.Contains(got, "trip/1") || !strings.Contains(got, "other") {
		t.Errorf("%s", got)
	}

	// And answers are purged by their tag.
	p.press("g", "a")
	p.shows("h1", "Cache")
	p.shows(".table .share", "4 entries")
	p.wait("nothing to be purged yet", `[...document.querySelectorAll('button')].find((b) => b.textContent === 'Purge…').disabled`)
	evalPage[bool](p, `([...document.querySelectorAll('.field')].find((f) => f.textContent.includes('Tag')).querySelector('input').focus(), true)`)
	p.press("c", "a", "t", "a", "l", "o", "g", "u", "e")
	p.click("button", "Purge…")
	p.shows(".confirm", "tag catalogue")
	p.accessible(t)
	p.click(".confirm button", "Purge them")
	p.shows(".stack", "4 answers purged.")
	p.shows(".table .share", "0 entries")
	if got := say("How high is a weir?", false); got != "miss" {
		t.Errorf("after the purge: %s", got)
	}

	// The same in the terminal.
	if got := terminal(t, r, "cache", "stats"); !strings.Contains(got, "default/cache") || !strings.Contains(got, "1 ") {
		t.Errorf("%s", got)
	}
	if got := terminal(t, r, "cache", "purge", "--policy", "default/cache", "--tenant", "app"); got != "1 answer purged\n" {
		t.Errorf("%s", got)
	}
	if got := terminal(t, r, append([]string{"sessions", "show", "other"}, who...)...); !strings.Contains(got, "idle") {
		t.Errorf("%s", got)
	}
	if got := terminal(t, r, append([]string{"sessions", "export", "other"}, who...)...); !strings.Contains(got, "Hello") {
		t.Errorf("%s", got)
	}
	if got := terminal(t, r, append([]string{"sessions", "delete", "other"}, who...)...); got != "1 session erased\n" {
		t.Errorf("%s", got)
	}

	// Another site's page may do none of it.
	for _, path := range []string{"/api/cache/purge", "/api/sessions?tenant=app"} {
		method := http.MethodPost
		if strings.Contains(path, "sessions") {
			method = http.MethodDelete
		}
		req, err := http.NewRequest(method, r.AdminURL+path, strings.NewReader(`{"tenant":"app"}`))
		must(t, err)
		req.Header.Set("sec-fetch-site", "cross-site")
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s %s of another site: %d", method, path, resp.StatusCode)
		}
	}
}

// terminal is what weir prints about a gateway.
func terminal(t *testing.T, r *remembering, args ...string) string {
	t.Helper()
	out, err := exec.Command(harness.Binary(t), append(args, "--admin", r.AdminURL)...).CombinedOutput()
	if err != nil {
		t.Fatalf("weir %q: %v\n%s", args, err, out)
	}
	return string(out)
}
