package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/breaker"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/xds/serve"
	"github.com/weir-dev/weir/xds/source"
)

// TestAnswers has every answer in a file.
func TestAnswers(t *testing.T) {
	r := newRig(t, 2)
	r.keys = []KeySet{{URL: "https://idp.example/keys", Keys: 2, Fetched: t0}}
	since := t0
	r.shared = &SharedState{Replicas: 2, Since: &since}
	r.tick(r.now, false)
	r.now = r.now.Add(time.Second)
	r.finish("x-1")
	r.finish("x-2", fellBack)
	r.finish("", limited)
	r.finish("x-3", failing(500))
	r.now = r.now.Add(500 * time.Millisecond)
	r.finish("x-4", failing(500))
	r.finish("x-5", failing(500))
	r.BreakerChanged(breaker.Change{Rule: &breaker.Rule{Name: "default/fair"}, Key: "acme", To: breaker.Open, At: r.now, Requests: 4, Failures: 3}, false)
	r.desk.Begin(open("x-9", r.now))
	r.now = r.now.Add(1500 * time.Millisecond)
	r.shared.Error = "connection refused"
	r.keys[0].Err, r.keys[0].UsableTo = "no answer", t0.Add(time.Hour)
	r.EnvoyDown("Envoy (pid 7) was ended by signal 9 (killed)")
	r.publisher.Store(&serve.State{Serving: r.layouts.now().version, Since: t0})
	r.tick(r.now, false)
	r.problems = []source.Problem{{Object: source.ObjectRef{Kind: "Route", Namespace: "default", Name: "all"}, Field: "spec.rules[0].backends[0].name", Message: "there is no Backend default/x", File: "all.yaml", Line: 31}}
	r.Compiled(nil, r.objs, r.problems)

	r.golden("status", "/api/status")
	r.golden("limits", "/api/limits")
	r.golden("breakers", "/api/breakers")
	r.golden("backends", "/api/backends")
	r.golden("topology", "/api/topology")
	r.golden("requests", "/api/requests")
	r.golden("requests-filtered", "/api/requests?status=5xx&backend=default/openai&limit=1")
	r.golden("request", "/api/requests/x-2")
	r.golden("request-refused", "/api/requests/req-")
	r.golden("request-running", "/api/requests/x-9")
	r.golden("request-unknown", "/api/requests/nobody")
	r.golden("history", "/api/history?minutes=2")
	r.golden("config", "/api/config")
	r.golden("config-kind", "/api/config?kind=Consumer")
}

// TestWrongQueries are told what is wrong.
func TestWrongQueries(t *testing.T) {
	r := newRig(t, 1)
	for _, c := range []struct{ path, want string }{
		{"/api/requests?limit=0", `limit must be a number from 1 to 1000, not \"0\"`},
		{"/api/requests?limit=x", "limit must be"},
		{"/api/requests?running=fast", "running must be"},
		{"/api/requests?status=600", "status must be"},
		{"/api/requests?status=xx", "status must be"},
		{"/api/requests?q=" + strings.Repeat("x", maxQuery+1), "q is longer"},
		{"/api/history?minutes=241", "minutes must be a number from 1 to 240"},
		{"/api/history?all=yes", "all must be true or false"},
		{"/api/config?kind=Pod", "kind: there are no objects"},
		{"/api/usage?by=colour", "nothing to group by"},
		{"/api/usage?from=today", `neither a day`},
	} {
		w := r.get(c.path)
		var body Error
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != 400 || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s %v", c.path, w.Code, w.Body, err)
		}
	}
}

// TestUsage: the bounds of a report are those of the command.
func TestUsage(t *testing.T) {
	r := newRig(t, 1)
	for i, e := range []ledger.Entry{
		{Time: t0, Tenant: "acme", Cost: 1_500_000_000, Currency: "USD"}, {Time: t0, Tenant: "acme", Cost: 1, Currency: "USD"},
		{Time: t0.AddDate(0, 0, 1), Tenant: "umbrella", Cost: 7, Currency: "EUR"},
	} {
		e.ID = fmt.Sprint("e-", i)
		if !r.Ledger.Begin(ledger.Intent{ID: e.ID, Time: e.Time}) || !r.Ledger.Commit(e) {
			t.Fatal(e.ID)
		}
	}
	for _, c := range []struct{ query, want string }{
		{"", "2026-03-01 acme  2 1.500000001, umbrella  1 0.000000007, "},
		{"?from=2026-03-01&to=2026-03-01", "2026-03-01 acme  2 1.500000001, "},
		{"?from=2026-03-02T00:00:00Z", "2026-03-02 umbrella  1 0.000000007, "},
		{"?by=day", "2026-03-01  2026-03-01 2 1.500000001,  2026-03-02 1 0.000000007, "},
	} {
		body := read[Usage](r, "/api/usage"+c.query)
		got := body.From.Format(time.DateOnly) + " "
		for _, row := range body.Rows {
			got += fmt.Sprint(row.Tenant, " ", row.Day, " ", row.Requests, " ", row.Cost, ", ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.query, got, c.want)
		}
	}
}

// TestLostAttempt: the failure of an attempt may be all that is known of a request that ended with Envoy.
func TestLostAttempt(t *testing.T) {
	r := newRig(t, 1)
	r.finish("x-lost", func(f *usage.Finished) {
		f.Record, f.Entry.Attempts = nil, 0
		f.Failed = []usage.Failed{{N: 1, Backend: "default/openai", Start: r.now, Status: 503, Flags: "UF"}}
	})
	x := r.State.Requests.Find("x-lost")
	if got := attempts(x); len(got) != 1 || !got[0].Failed || !got[0].Last {
		t.Errorf("%+v", got)
	}
}

// TestOldestRequests: of many that run, those that have run for longest are not the ones that are left out.
// TestUntoldAttempts: of attempts that Envoy prepares by itself it tells when they fail, and the order says who comes next.
func TestUntoldAttempts(t *testing.T) {
	r := newRig(t, 2)
	o := open("run", r.now)
	o.Unasked, o.Order = true, []uint8{0, 1}
	r.desk.Begin(o)
	tried := func(want ...Attempt) {
		t.Helper()
		got := read[Request](r, "/api/requests/run")
		if !reflect.DeepEqual(got.Tried, want) {
			t.Errorf("tried %+v, want %+v", got.Tried, want)
		}
		if at := want[len(want)-1].Backend; got.Backend != at {
			t.Errorf("it is said to be at %q, want %q", got.Backend, at)
		}
	}
	r.now = t0.Add(time.Second)
	tried(Attempt{N: 1, Backend: "default/openai", Model: "gpt-4o", DurationSeconds: 1, Last: true})
	r.desk.Failed(&usage.Failed{Span: o.Trace.Span, N: 1, Backend: "default/openai", Endpoint: "192.0.2.7:443", Start: t0, Duration: 500 * time.Millisecond, Status: 503})
	tried(
		Attempt{N: 1, Backend: "default/openai", Model: "gpt-4o", Endpoint: "192.0.2.7:443", DurationSeconds: 0.5, Status: 503, Reason: "status 503", Failed: true},
		Attempt{N: 2, Backend: "default/pool", Model: "gpt-4o", StartSeconds: 0.5, DurationSeconds: 0.5, Last: true})
	if got := read[Requests](r, "/api/requests?backend=default/openai"); len(got.Running) != 1 {
		t.Errorf("who looks for those that asked it finds %+v", got.Running)
	}
}

func TestOldestRequests(t *testing.T) {
	r := newRig(t, 1)
	for i := range 5 {
		r.desk.Begin(open(fmt.Sprint(i), r.now.Add(time.Duration(i)*time.Second)))
	}
	for query, want := range map[string][]string{"": {"4", "3"}, "&running=newest": {"4", "3"}, "&running=oldest": {"0", "1"}} {
		var got []string
		for _, s := range read[Requests](r, "/api/requests?limit=2"+query).Running {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v", query, got)
		}
	}
}

func TestFilters(t *testing.T) {
	r := newRig(t, 2)
	r.finish("ok")
	r.finish("back", fellBack)
	r.finish("", limited)
	r.finish("bad", failing(502))
	r.finish("other", func(f *usage.Finished) { f.Record.Tenant, f.Record.Route = "umbrella", "default/two/first" })
	r.desk.Begin(open("run", r.now))
	for query, want := range map[string]string{
		"":                        "run | other bad #3 back ok",
		"status=ok":               " | other back ok",
		"status=refused":          " | #3",
		"status=429":              " | #3",
		"status=4xx":              " | #3",
		"status=failed":           " | bad",
		"status=2xx":              " | other back ok",
		"status=running":          "run | ",
		"tenant=umbrella":         " | other",
		"route=default/two/first": " | other",
		"backend=default/pool":    " | back",
		"backend=default/openai":  " | other bad back ok",
		"q=LIMIT%20default":       " | #3",
		"q=req-b":                 " | bad back",
		"q=0af7651916cd43dd":      "run | other bad #3 back ok",
		"limit=2":                 "run | other bad",
		"status=ok&tenant=nobody": " | ",
	} {
		if strings.Contains(query, "backend=default/pool") {
			// A running request is listed where it is, which is not known while it may be at either.
			if b := r.runningSummary(open("run", r.now), r.now).Backend; b != "" {
				t.Errorf("it is said to be at %s", b)
			}
		}
		body := read[Requests](r, "/api/requests?"+query)
		ids := func(list []RequestSummary) string {
			var out []string
			for _, s := range list {
				out = append(out, strings.Replace(s.ID, "req-", "#3", 1))
			}
			return strings.Join(out, " ")
		}
		if got := ids(body.Running) + " | " + ids(body.Recent); got != want {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
		if body.More != (query == "limit=2") || body.Total != 5 {
			t.Errorf("%q: more %v, total %d", query, body.More, body.Total)
		}
	}
}

// TestNoSecrets: no answer has a credential, or the hash of one.
func TestNoSecrets(t *testing.T) {
	r := newRig(t, 2)
	r.finish("x-1")
	r.serve(strings.Replace(objectsYAML(2), "credential:", "defaultMaxTokens: 9\n  credential:", 1) + "# " + upstreamKey)
	all := ""
	for _, p := range []string{"status", "limits", "breakers", "backends", "usage", "topology", "requests", "requests/x-1", "history?all=true", "config"} {
		all += r.get("/api/" + p).Body.String()
	}
	for _, want := range []string{"default/openai", "file: key.txt", "defaultMaxTokens: 9", "(hidden)"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing, so that nothing is shown by what follows", want)
		}
	}
	for _, secret := range []string{upstreamKey, "37a721706adc"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is shown", secret)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"", "limit=5&status=5xx&q=a", "status=running", "limit=-1", "status=%ff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if _, err := parseSpan(q); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		x, err := parseFilter(q)
		if err != nil {
			return
		}
		if x.limit < 1 || x.limit > maxRequests || len(x.text) > maxQuery {
			t.Errorf("%q: %+v", query, x)
		}
		x.match(&RequestSummary{Status: 503, Outcome: "failed"}, func(string) bool { return false })
	})
}

func FuzzPosition(f *testing.F) {
	f.Add("18ea85f5fc1994d6-6-4")
	f.Add("--")
	f.Add("-1-2-3")
	f.Fuzz(func(t *testing.T, id string) {
		p, ok := parsePosition(id)
		if !ok {
			return
		}
		if again, ok := parsePosition(p.String()); p.started >= 0 && (!ok || again != p) {
			t.Errorf("%q is %+v, and that is %+v", id, p, again)
		}
	})
}
