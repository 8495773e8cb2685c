package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// supplier is a provider that does what its requests say in headers: x-in and x-out are the usage that it reports (50 and 50
// without), x-status is an error, and an answer with x-hold is kept back until that name is released. It speaks both dialects, plain
// answers only, and tells of limits of its own, which are nobody's business.
type supplier struct {
	*httptest.Server

	mu      sync.Mutex
	arrived []string // x-hold of the requests that came, in order
	gates   map[string]chan struct{}
	gone    int // requests that ended while they were held
}

// ownLimit is what the supplier says of itself in headers of limits.
const ownLimit = "987654321"

func newSupplier(t *testing.T) *supplier {
	t.Helper()
	s := &supplier{gates: map[string]chan struct{}{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *supplier) gate(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[name] == nil {
		s.gates[name] = make(chan struct{})
	}
	return s.gates[name]
}

// release lets the answers go that are held under the name, now and later.
func (s *supplier) release(name string) { close(s.gate(name)) }

// held says what has arrived under names that begin so.
func (s *supplier) held(prefix string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.arrived {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out
}

// left is how many requests ended while they were held.
func (s *supplier) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

func (s *supplier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway has gone
	}
	if name := r.Header.Get("x-hold"); name != "" {
		gate := s.gate(name)
		s.mu.Lock()
		s.arrived = append(s.arrived, name)
		s.mu.Unlock()
		select {
		case <-gate:
		case <-r.Context().Done():
			s.mu.Lock()
			s.gone++
			s.mu.Unlock()
			return
		}
	}
	for _, name := range []string{"x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-other", "anthropic-ratelimit-requests-limit"} {
		w.Header().Set(name, ownLimit)
	}
	w.Header().Set("content-type", plainJSON)
	if status, _ := strconv.Atoi(r.Header.Get("x-status")); status > 0 {
		w.WriteHeader(status)
		kind := map[int]string{400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error"}[status]
		if kind == "" {
			kind = "api_error"
		}
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"`+kind+`","message":"asked for"}}`) // the gateway may have gone
		return
	}
	amount := func(name string) int {
		if n, err := strconv.Atoi(r.Header.Get(name)); err == nil {
			return n
		}
		return 50
	}
	var asked struct {
		Model string `json:"model"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	in, out := amount("x-in"), amount("x-out")
	if strings.HasSuffix(r.URL.Path, "/messages") {
		fmt.Fprintf(w, `{"id":"m","type":"message","role":"assistant","model":%q,"content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn",`+
			`"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":%d}}`, asked.Model, in, out)
		return
	}
	fmt.Fprintf(w, `{"id":"c","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":"hi"},`+
		`"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`, asked.Model, in, out, in+out)
}

// backends are the supplier as two backends, one of each dialect, that serve any model, and one where nobody listens. Their
// prices make a token cost a millionth.
func (s *supplier) backends(t *testing.T) []harness.Backend {
	t.Helper()
	const prices = "prices: [{input: \"1\", output: \"1\"}]"
	return []harness.Backend{
		{Name: "oa", Dialect: "openai", URL: s.URL + "/v1", AnyModel: true, Spec: prices},
		{Name: "an", Dialect: "anthropic", URL: s.URL, AnyModel: true, Spec: prices},
		{Name: "dead", Dialect: "openai", URL: fmt.Sprintf("http://127.0.0.1:%d/v1", harness.FreePort(t)), AnyModel: true, Spec: prices},
	}
}

// The callers of tests of limits: two keys of the consumer a, a colleague of its tenant, and another tenant's consumer.
const (
	keyA1 = "key-a1-0123456789abcdef"
	keyA2 = "key-a2-0123456789abcdef"
	keyB  = "key-b-0123456789abcdefg"
	keyC  = "key-c-0123456789abcdefg"
)

func fourKeys() []string {
	return []string{
		harness.Document("Consumer", "a", "tenant: t1"), harness.APIKey("a1", "a", keyA1, ""), harness.APIKey("a2", "a", keyA2, ""),
		harness.Consumer("b", keyB, "tenant: t1"), harness.Consumer("c", keyC, "tenant: t2"),
	}
}

// limitState is a limit as /api/limits shows it.
type limitState struct {
	ID, Name, Unit, Sharing          string
	Limit                            int64
	Admitted, Refused, ShadowRefused uint64
	Waiting                          int
	Leased                           int64
	Bound                            int64 `json:"overspendBound"`
	Subjects                         []limitSubject
}

type limitSubject struct {
	Subject                    string
	Limit, Remaining, Reserved int64
}

// limitsNow are the limits of that name: one for each target that has a counter of its own.
func limitsNow(t testing.TB, g *harness.Gateway, name string) (out []limitState) {
	t.Helper()
	var body struct{ Limits []limitState }
	adminJSON(t, g, "/api/limits", &body)
	for _, l := range body.Limits {
		if l.Name == name {
			out = append(out, l)
		}
	}
	return out
}

// adminJSON reads what an address of the admin interface answers.
func adminJSON(t testing.TB, g *harness.Gateway, path string, into any) {
	t.Helper()
	resp, err := http.Get(g.AdminURL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// reserved is what running requests have reserved of a limit.
func reserved(t testing.TB, g *harness.Gateway, name string) (sum int64) {
	t.Helper()
	for _, l := range limitsNow(t, g, name) {
		for _, s := range l.Subjects {
			sum += s.Reserved
		}
	}
	return sum
}

// waiting is how many requests wait for a limit.
func waiting(t testing.TB, g *harness.Gateway, name string) (sum int) {
	t.Helper()
	for _, l := range limitsNow(t, g, name) {
		sum += l.Waiting
	}
	return sum
}

// settled waits until every request under a limit has become what it used.
func settled(t testing.TB, g *harness.Gateway, name string) {
	t.Helper()
	harness.WaitFor(t, "all is settled under "+name, func() bool { return reserved(t, g, name) == 0 })
}

// quiet waits until no request is open and nothing is reserved.
func quiet(t testing.TB, g *harness.Gateway) {
	t.Helper()
	harness.WaitFor(t, "everything is settled", func() bool {
		if g.Metric("weir_settlement_open_requests") != 0 {
			return false
		}
		var body struct{ Limits []limitState }
		adminJSON(t, g, "/api/limits", &body)
		for _, l := range body.Limits {
			for _, s := range l.Subjects {
				if s.Reserved != 0 {
					return false
				}
			}
		}
		return true
	})
}
