package e2e

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// suppliedBackend is a pool of one endpoint, the supplier, with a LoadPolicy.
func suppliedBackend(t *testing.T, s *supplier, name, policy string) []string {
	t.Helper()
	host, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	return []string{
		harness.Document("Backend", name, "dialect: openai\nbasePath: /v1\nmodels: [{name: "+name+"}]\nendpoints: [{address: "+host+", port: "+port+"}]\n"),
		harness.Document("LoadPolicy", name, "targetRefs: [{kind: Backend, name: "+name+"}]\n"+policy),
	}
}

// TestAdmission: while every endpoint is full requests wait, in the order of priority and tenants; for whom there is no room, or who
// has waited too long, there is 429.
func TestAdmission(t *testing.T) {
	provider := newSupplier(t)
	docs := append(suppliedBackend(t, provider, "full", `
admission:
  maxRequestsPerEndpoint: 1
  maxWaiting: 3
  maxWait: 60s
  priorities: [{consumerLabels: {tier: gold}, priority: 10}]
`), suppliedBackend(t, provider, "short", "admission: {maxRequestsPerEndpoint: 1, maxWaiting: 9, maxWait: 1s}\n")...)
	docs = append(docs, harness.Route("all", "rules: [{matches: [{models: [full]}], backends: [{name: full}]}, {matches: [{models: [short]}], backends: [{name: short}]}]\n"))
	keys := map[string]string{}
	for name, spec := range map[string]string{"red": "tenant: red", "blue": "tenant: blue", "gold": "tenant: gold\nlabels: {tier: gold}"} {
		keys[name] = "key-of-" + name + "-0123456789"
		docs = append(docs, harness.Consumer(name, keys[name], spec))
	}
	s := &steered{Gateway: harness.Start(t, harness.Options{Documents: docs})}
	ask := func(who, dialect, model, name string) *http.Request {
		return request(t, s.Gateway, "POST", chatPath(dialect), dialect, limitedBody(model, `"max_tokens":50`), "authorization", "Bearer "+keys[who], "x-hold", name)
	}
	arrived := func(name string) {
		t.Helper()
		s.WaitFor(name+" is with the server", func() bool { return slices.Contains(provider.held(""), name) })
	}
	waits := func(n int) {
		t.Helper()
		s.WaitFor(strconv.Itoa(n)+" wait", func() bool { return s.backend(t, "full").RequestsWaiting == n })
	}
	refused := func(a answer, dialect, says string) {
		t.Helper()
		msg := checkError(t, dialect, a, http.StatusTooManyRequests)
		after := a.header.Get("retry-after")
		if n, err := strconv.Atoi(after); err != nil || n < 1 || !strings.Contains(msg, says) || !strings.Contains(msg, "Try again in "+after+" s.") {
			t.Errorf("retry-after %q: %q", after, msg)
		}
		if dialect == "openai" && !strings.Contains(a.body, `"rate_limit_exceeded"`) {
			t.Errorf("the error has no code: %s", a.body)
		}
	}

	first := begin(ask("red", "openai", "full", "first"))
	arrived("first")
	// Red has two that wait, blue one; then there is no room.
	red1 := begin(ask("red", "openai", "full", "red-1"))
	waits(1)
	red2 := begin(ask("red", "anthropic", "full", "red-2"))
	waits(2)
	blue := begin(ask("blue", "anthropic", "full", "blue"))
	waits(3)
	for _, dialect := range []string{"openai", "anthropic"} {
		refused(do(t, http.DefaultClient, ask("blue", dialect, "full", "none")), dialect, "no room to wait")
	}
	// Who comes first gets the place of one who is less important: of the tenant that has most.
	gold := begin(ask("gold", "openai", "full", "gold"))
	if status := <-red2; status != http.StatusTooManyRequests {
		t.Errorf("status %d for the one that gave way", status)
	}
	waits(3)
	for i, next := range []string{"gold", "red-1", "blue"} {
		provider.release([]string{"first", "gold", "red-1"}[i])
		arrived(next)
		waits(2 - i)
	}
	provider.release("blue")
	for name, status := range map[string]<-chan int{"first": first, "gold": gold, "red-1": red1, "blue": blue} {
		must200(t, name, <-status, "")
	}
	if got := provider.held(""); !slices.Equal(got, []string{"first", "gold", "red-1", "blue"}) {
		t.Errorf("the server got %v", got)
	}

	held := begin(ask("red", "openai", "short", "held"))
	arrived("held")
	refused(do(t, http.DefaultClient, ask("blue", "anthropic", "short", "late")), "anthropic", "none came free while the request waited")
	provider.release("held")
	must200(t, "the one that was there", <-held, "")
	if got := provider.held("late"); len(got) > 0 {
		t.Errorf("the server got %v", got)
	}
	quiet(t, s.Gateway)
	for _, b := range s.steering(t).Backends {
		if b.RequestsInFlight != 0 || b.RequestsWaiting != 0 {
			t.Errorf("of %s are left: %+v", b.Backend, b)
		}
	}
}
