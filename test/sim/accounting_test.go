package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// thinkers are requests whose answers are partly thought, shown or hidden, whole and streamed.
func thinkers() []exchangeCase {
	const hi = `"messages":[{"role":"user","content":"say 12 words"}]`
	return []exchangeCase{
		{"hidden", OpenAI, chatPath, `{"model":"o3-mini",` + hi + `}`, nil},
		{"hidden stream", OpenAI, chatPath, `{"model":"o3-mini",` + hi + `,"stream":true}`, nil},
		{"hidden stream of two", OpenAI, chatPath, `{"model":"o3-mini",` + hi + `,"stream":true,"n":2}`, nil},
		{"responses stream", OpenAI, "/v1/responses", `{"model":"o3-mini","input":"say 10 words","stream":true}`, nil},
		{"responses stream, tools", OpenAI, "/v1/responses", `{"model":"o3-mini","input":"call the tool","stream":true,"tools":[{"type":"function","name":"a_clock_of_many_words","parameters":{"type":"object"}}]}`, nil},
		{"omitted", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":2000,"stream":true,"thinking":{"type":"adaptive","display":"omitted"},` + hi + `}`, []string{v2026}},
		{"shown", Anthropic, messagesPath, `{"model":"claude-sonnet-4-5","max_tokens":2000,"stream":true,"thinking":{"type":"adaptive"},` + hi + `}`, []string{v2026}},
		{"cut while thinking", DashScope, compatPath, `{"model":"qwen-plus",` + hi + `,"max_tokens":3,"enable_thinking":true,"stream":true}`, nil},
		{"native", DashScope, qwenPath, `{"model":"qwen-plus","input":{` + hi + `},"parameters":{"result_format":"message","incremental_output":true,"enable_thinking":true}}`, []string{sse}},
	}
}

// TestServedIsBilled holds that what is counted as sent of a complete answer is what its usage bills, to the token and for every
// way of chunking.
func TestServedIsBilled(t *testing.T) {
	for i, c := range append(thinkers(), cases()...) {
		if c.body == "" {
			continue
		}
		for _, how := range []Chunking{Whole, Split, Batch} {
			t.Run(fmt.Sprintf("%s, %s", c.name, how), func(t *testing.T) {
				s, url := newSim(t, Options{Dialect: c.dialect, Models: []string{"o3-mini", "gpt-4o", "gpt-5", "claude-sonnet-4-5", "qwen-plus", "qwen-vl-plus"}, Faults: Faults{Chunking: how}})
				got := do(t, "POST", url+c.path, c.body, append([]string{bearer}, c.headers...)...)
				if got.err != nil || got.status != 200 {
					t.Fatalf("status %d, %v: %s", got.status, got.err, got.body)
				}
				waitFor(t, func() bool { return s.Stats().Running == 0 })
				r := s.Requests()[0]
				if r.End != Finished || r.Tokens == 0 || r.Tokens != r.Usage.Output || r.Reasoning != r.Usage.Reasoning {
					t.Errorf("%s: sent %d, of these %d thought; billed %+v", r.End, r.Tokens, r.Reasoning, r.Usage)
				}
				if i < len(thinkers()) && r.Reasoning == 0 {
					t.Error("nothing was thought: the test tests nothing")
				}
				want := Tally{Count: Count{Requests: 1, Input: r.Usage.Input, Cached: r.Usage.Cached, CacheWritten: r.Usage.CacheWritten, Output: r.Usage.Output, Reasoning: r.Usage.Reasoning}}
				st := s.Stats()
				if st.Models[r.Summary.Model] != want || st.Credentials[Fingerprint("k")] != want {
					t.Errorf("models %+v, credentials %+v, want %+v", st.Models, st.Credentials, want)
				}
			})
		}
	}
}

// abort serves a request in the process whose client leaves while the model makes its nth token (0: while the first is
// waited for), and returns the body so far.
func abort(t *testing.T, o Options, path, body string, n int) (*Server, string) {
	t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	waits := 0
	o.Sleep = func(ctx context.Context, _ time.Duration) error {
		if waits == n {
			leave()
		}
		waits++
		return ctx.Err()
	}
	o.Now = fixedNow
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequestWithContext(ctx, "POST", path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer k")
	w := httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != nil && p != http.ErrAbortHandler {
				panic(p)
			}
		}()
		s.ServeHTTP(w, req)
	}()
	return s, w.Body.String()
}

// TestAbortedIsCounted holds that an answer whose client leaves counts with its whole input and the tokens that were sent.
func TestAbortedIsCounted(t *testing.T) {
	const hi = `"messages":[{"role":"user","content":"say 30 words"}]`
	plain := `{"model":"gpt-4o",` + hi + `}`
	stream := `{"model":"gpt-4o",` + hi + `,"stream":true}`
	for _, how := range []Chunking{Whole, Split, Batch} {
		for _, n := range []int{1, 2, 5, 9} {
			t.Run(fmt.Sprintf("stream, %s, %d", how, n), func(t *testing.T) {
				s, body := abort(t, Options{Dialect: OpenAI, Faults: Faults{Chunking: how}}, chatPath, stream, n)
				tokens := strings.Count(body, `{"content":"`)
				if how != Batch && tokens != n {
					t.Fatalf("%d tokens were sent: %s", tokens, body)
				}
				r := s.Requests()[0]
				want := Count{Requests: 1, Input: r.Usage.Input, Output: tokens}
				if got := s.Stats().Models["gpt-4o"]; r.End != Aborted || r.Usage.Input == 0 || got != (Tally{Count: want, Aborted: want}) {
					t.Errorf("%s: %+v, want %+v", r.End, got, want)
				}
			})
		}
	}
	t.Run("while thinking", func(t *testing.T) {
		s, _ := abort(t, Options{Dialect: DashScope}, compatPath, `{"model":"qwen-plus",`+hi+`,"enable_thinking":true,"thinking_budget":5,"stream":true}`, 3)
		if got := s.Stats().Models["qwen-plus"].Aborted; got.Output != 3 || got.Reasoning != 3 || got.Requests != 1 {
			t.Errorf("%+v", got)
		}
		s, _ = abort(t, Options{Dialect: DashScope}, compatPath, `{"model":"qwen-plus",`+hi+`,"enable_thinking":true,"thinking_budget":5,"stream":true}`, 8)
		if got := s.Stats().Models["qwen-plus"].Aborted; got.Output != 8 || got.Reasoning != 5 {
			t.Errorf("%+v", got)
		}
	})
	for name, c := range map[string]struct {
		body string
		n    int
	}{"before a stream": {stream, 0}, "before a plain answer": {plain, 0}, "while a plain answer is made": {plain, 1}} {
		t.Run(name, func(t *testing.T) {
			s, body := abort(t, Options{Dialect: OpenAI}, chatPath, c.body, c.n)
			if st := s.Stats(); len(st.Models) != 0 || len(st.Credentials) != 0 || st.Ends[Aborted] != 1 || body != "" {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestFaultsAreCounted holds that errors bill nothing, and that what a fault cut off is told apart.
func TestFaultsAreCounted(t *testing.T) {
	const stream = `{"model":"gpt-4o","messages":[{"role":"user","content":"say 30 words"}],"stream":true}`
	const plain = `{"model":"gpt-4o","messages":[{"role":"user","content":"say 30 words"}]}`
	for name, c := range map[string]struct {
		rule   Rule
		body   string
		bills  bool
		tokens int
	}{
		"status":                   {Rule{Kind: Status, Status: 503}, stream, false, 0},
		"close":                    {Rule{Kind: Close}, stream, false, 0},
		"error for a plain answer": {Rule{Kind: StreamError}, plain, false, 0},
		"error within a stream":    {Rule{Kind: StreamError, AfterEvents: 5}, stream, true, 4}, // the first event says the role
		"a stream breaks":          {Rule{Kind: Disconnect, AfterEvents: 3}, stream, true, 2},
		"a plain answer breaks":    {Rule{Kind: Disconnect}, plain, true, 0},
	} {
		for _, how := range []Chunking{Whole, Batch} {
			t.Run(fmt.Sprintf("%s, %s", name, how), func(t *testing.T) {
				f := rule(c.rule)
				f.Chunking = how
				s, url := newSim(t, Options{Dialect: OpenAI, Faults: f})
				do(t, "POST", url+chatPath, c.body, bearer)
				waitFor(t, func() bool { return s.Stats().Running == 0 })
				st, r := s.Stats(), s.Requests()[0]
				if st.Ends[Faulted] != 1 {
					t.Fatalf("ends %v", st.Ends)
				}
				want := Tally{}
				if c.bills {
					want.Broken = Count{Requests: 1, Input: r.Usage.Input, Output: c.tokens}
					want.Count = want.Broken
				}
				if got := st.Models["gpt-4o"]; got != want {
					t.Errorf("%+v, want %+v", got, want)
				}
			})
		}
	}
}

// TestTallyJSON holds the names that tests and people read.
func TestTallyJSON(t *testing.T) {
	b, err := json.Marshal(Tally{Count: Count{1, 2, 3, 4, 5, 6}, Aborted: Count{Requests: 7}, Broken: Count{Output: 8}})
	if err != nil {
		t.Fatal(err)
	}
	const zero = `"input_tokens":0,"cached_tokens":0,"cache_written_tokens":0,`
	want := `{"requests":1,"input_tokens":2,"cached_tokens":3,"cache_written_tokens":4,"output_tokens":5,"reasoning_tokens":6,` +
		`"aborted":{"requests":7,` + zero + `"output_tokens":0,"reasoning_tokens":0},"broken":{"requests":0,` + zero + `"output_tokens":8,"reasoning_tokens":0}}`
	if string(b) != want {
		t.Errorf("%s", b)
	}
}
