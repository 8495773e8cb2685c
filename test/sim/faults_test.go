package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	askOpenAI    = `{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}`
	streamOpenAI = `{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"hi"}]}`
	askClaude    = `{"model":"claude-sonnet-4-5","max_tokens":99,"messages":[{"role":"user","content":"hi"}]}`
	streamClaude = `{"model":"claude-sonnet-4-5","max_tokens":99,"stream":true,"messages":[{"role":"user","content":"hi"}]}`
	askQwen      = `{"model":"qwen-plus","input":{"messages":[{"role":"user","content":"hi"}]},"parameters":{"result_format":"message"}}`
)

func rule(r Rule) Faults { return Faults{Rules: []Rule{r}} }

// face is a dialect with its requests.
type face struct {
	dialect       Dialect
	path          string
	plain, stream string
	headers       []string // of the stream
}

func faces() []face {
	return []face{
		{OpenAI, chatPath, askOpenAI, streamOpenAI, []string{bearer}},
		{Anthropic, messagesPath, askClaude, streamClaude, []string{bearer, v2023}},
		{DashScope, qwenPath, askQwen, askQwen, []string{bearer, sse}},
	}
}

func (f face) plainHeaders() []string {
	return slices.DeleteFunc(slices.Clone(f.headers), func(h string) bool { return h == sse })
}

func TestStatusFaults(t *testing.T) {
	kinds := map[Dialect]map[int]string{
		OpenAI:    {400: "invalid_request_error", 401: "invalid_request_error", 403: "permission_error", 404: "invalid_request_error", 408: "timeout", 409: "conflict_error", 413: "invalid_request_error", 422: "invalid_request_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"},
		Anthropic: {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error"},
		DashScope: {400: "InvalidParameter", 401: "InvalidApiKey", 403: "AccessDenied", 404: "ModelNotFound", 429: "Throttling.RateQuota", 500: "InternalError", 503: "ServiceUnavailable", 504: "GatewayTimeout"},
	}
	for _, f := range faces() {
		s, url := newSim(t, Options{Dialect: f.dialect})
		for status, kind := range kinds[f.dialect] {
			if err := s.SetFaults(rule(Rule{Kind: Status, Status: status, Next: 1, RetryAfter: Duration(1500 * time.Millisecond)})); err != nil {
				t.Fatal(err)
			}
			got := do(t, "POST", url+f.path, f.stream, f.headers...)
			if got.status != status || got.header.Get("Retry-After") != "2" {
				t.Errorf("%s %d: status %d, retry-after %q", f.dialect, status, got.status, got.header.Get("Retry-After"))
			}
			found := dig(t, got.body, "code")
			if f.dialect != DashScope {
				found = dig(t, got.body, "error", "type")
			}
			if found != kind {
				t.Errorf("%s %d: type %v, want %s", f.dialect, status, found, kind)
			}
			if after := do(t, "POST", url+f.path, f.plain, f.plainHeaders()...); after.status != 200 {
				t.Errorf("%s: the rule outlives its count: %d", f.dialect, after.status)
			}
		}
	}
}

func TestRuleCounting(t *testing.T) {
	statuses := func(s *Server, url string, n int) []int {
		var out []int
		for range n {
			out = append(out, do(t, "POST", url+chatPath, askOpenAI, bearer).status)
		}
		return out
	}
	for name, c := range map[string]struct {
		faults Faults
		want   []int
	}{
		"next two":        {rule(Rule{Kind: Status, Next: 2}), []int{500, 500, 200, 200}},
		"every third":     {rule(Rule{Kind: Status, Status: 503, Every: 3}), []int{200, 200, 503, 200, 200, 503}},
		"always":          {rule(Rule{Kind: Status, Status: 429}), []int{429, 429, 429}},
		"rate one":        {rule(Rule{Kind: Status, Rate: 1}), []int{500, 500}},
		"another path":    {rule(Rule{Kind: Status, Path: "/v1/embeddings"}), []int{200, 200}},
		"first rule wins": {Faults{Rules: []Rule{{Kind: Status, Status: 503, Next: 1}, {Kind: Status, Status: 502}}}, []int{503, 502, 502}},
	} {
		s, url := newSim(t, Options{Dialect: OpenAI, Faults: c.faults})
		if got := statuses(s, url, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := do(t, "GET", url+"/v1/models", "", bearer); got.status != 200 {
			t.Errorf("%s: a rule without a path strikes GET: %d", name, got.status)
		}
	}
	// A rate is a share, and the same one with the same seed.
	share := func(seed uint64) []int {
		s, url := newSim(t, Options{Dialect: OpenAI, Seed: seed, Faults: rule(Rule{Kind: Status, Rate: 0.3})})
		return statuses(s, url, 100)
	}
	a, failed := share(1), 0
	for _, v := range a {
		if v == 500 {
			failed++
		}
	}
	if failed < 15 || failed > 45 {
		t.Errorf("a rate of 0.3 strikes %d of 100", failed)
	}
	if !slices.Equal(a, share(1)) || slices.Equal(a, share(2)) {
		t.Error("the seed does not decide which requests are struck")
	}
	s, _ := newSim(t, Options{Dialect: OpenAI, Faults: rule(Rule{Kind: Hang, Path: "/v1/models"})})
	if len(s.Faults().Rules) != 1 {
		t.Error("the rules cannot be read back")
	}
}

func TestStreamFaults(t *testing.T) {
	for _, f := range faces() {
		for _, how := range []Chunking{Whole, Split, Batch} {
			s, url := newSim(t, Options{Dialect: f.dialect, Faults: Faults{Chunking: how}})
			whole := do(t, "POST", url+f.path, f.stream, f.headers...)

			set := func(r Rule) {
				t.Helper()
				if err := s.SetFaults(Faults{Chunking: how, Rules: []Rule{r}}); err != nil {
					t.Fatal(err)
				}
			}
			set(Rule{Kind: Disconnect, AfterEvents: 5})
			got := do(t, "POST", url+f.path, f.stream, f.headers...)
			if got.err == nil {
				t.Errorf("%s %s: the stream ends cleanly", f.dialect, how)
			}
			if n := strings.Count(got.body, "\n\n"); n != 5 {
				t.Errorf("%s %s: %d events before the disconnect, want 5", f.dialect, how, n)
			}

			set(Rule{Kind: StreamError, AfterEvents: 3})
			got = do(t, "POST", url+f.path, f.stream, f.headers...)
			if got.err != nil || got.status != 200 || strings.Count(got.body, "\n\n") != 4 {
				t.Errorf("%s %s: %d %v %s", f.dialect, how, got.status, got.err, got.body)
			}
			last := got.body[strings.LastIndex(strings.TrimSuffix(got.body, "\n\n"), "\n\n")+2:]
			want := map[Dialect]string{
				OpenAI:    `data: {"error":{"message":`,
				Anthropic: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"",
				DashScope: "id:4\nevent:error\n:HTTP_STATUS/500\ndata:{\"code\":\"InternalError\"",
			}[f.dialect]
			if !strings.HasPrefix(last, want) {
				t.Errorf("%s %s: error event %q", f.dialect, how, last)
			}
			if got := do(t, "POST", url+f.path, f.plain, f.plainHeaders()...); got.status != 500 {
				t.Errorf("%s: a plain request has no stream: status %d, want 500", f.dialect, got.status)
			}

			// A fault beyond the end never happens.
			set(Rule{Kind: Disconnect, AfterEvents: 1000})
			if got = do(t, "POST", url+f.path, f.stream, f.headers...); got.err != nil || len(got.body) < len(whole.body)/2 {
				t.Errorf("%s: %v", f.dialect, got.err)
			}
			// A plain answer breaks in the middle of its body.
			set(Rule{Kind: Disconnect})
			if got = do(t, "POST", url+f.path, f.plain, f.plainHeaders()...); got.err == nil || got.body == "" {
				t.Errorf("%s: a plain body arrives whole: %v %q", f.dialect, got.err, got.body)
			}

			var ends []string
			for _, r := range s.Requests() {
				ends = append(ends, r.End)
			}
			if want := []string{Finished, Faulted, Faulted, Faulted, Finished, Faulted}; !slices.Equal(ends, want) {
				t.Errorf("%s: ends %v, want %v", f.dialect, ends, want)
			}
		}
	}
}

func TestCompatibleStreamError(t *testing.T) {
	_, url := newSim(t, Options{Dialect: DashScope, Faults: rule(Rule{Kind: StreamError, AfterEvents: 2})})
	got := do(t, "POST", url+compatPath, `{"model":"qwen-plus","stream":true,"messages":[{"role":"user","content":"hi"}]}`, bearer)
	if !strings.Contains(got.body, `data: {"error":{`) || strings.Contains(got.body, "[DONE]") {
		t.Errorf("%s", got.body)
	}
}

func TestDashScopeErrorInside200(t *testing.T) {
	s, url := newSim(t, Options{Dialect: DashScope, Faults: rule(Rule{Kind: OKError, Next: 1})})
	got := do(t, "POST", url+qwenPath, askQwen, bearer)
	if got.status != 200 || dig(t, got.body, "code") != "InternalError" || dig(t, got.body, "output") != nil {
		t.Errorf("%d %s", got.status, got.body)
	}
	if rec := s.Requests()[0]; rec.End != Faulted || rec.Fault != OKError {
		t.Errorf("record: %s %s", rec.End, rec.Fault)
	}
}

func TestCloseAndHang(t *testing.T) {
	s, url := newSim(t, Options{Dialect: OpenAI, Faults: rule(Rule{Kind: Close, Next: 1})})
	// A client retries nothing after it has sent a POST.
	if got := do(t, "POST", url+chatPath, askOpenAI, bearer); got.err == nil {
		t.Errorf("an answer came: %d", got.status)
	}
	if err := s.SetFaults(rule(Rule{Kind: Hang})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", url+chatPath, strings.NewReader(askOpenAI))
	req.Header.Set("Authorization", "Bearer k")
	done := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	waitFor(t, func() bool { l := s.Requests(); return len(l) == 2 && l[1].BodySize > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a hanging request ends with %v", err)
	}
	waitFor(t, func() bool { return s.Stats().Running == 0 })
	if st := s.Stats(); st.Faults[Close] != 1 || st.Faults[Hang] != 1 {
		t.Errorf("faults: %v", st.Faults)
	}
}

// waitFor waits for a condition that other goroutines bring about.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("the condition does not come true")
		}
		select {
		case <-t.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestSlowRead(t *testing.T) {
	var mu sync.Mutex
	var waits []time.Duration
	s, url := newSim(t, Options{Dialect: OpenAI, Faults: Faults{TTFT: None, IntervalMin: None, IntervalMax: None,
		Rules: []Rule{{Kind: SlowRead, Delay: Duration(7 * time.Millisecond)}}},
		Sleep: func(_ context.Context, d time.Duration) error {
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, d)
			return nil
		}})
	body := `{"model":"gpt-4o","messages":[{"role":"user","content":"` + strings.Repeat("x", 9000) + `"}]}`
	if got := do(t, "POST", url+chatPath, body, bearer); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if len(waits) != 3 || waits[0] != 7*time.Millisecond {
		t.Errorf("waits for %d bytes: %v", len(body), waits)
	}
	if r := s.Requests()[0]; r.BodySize != len(body) || r.End != Finished || r.Fault != SlowRead {
		t.Errorf("record: %d bytes, %s, %s", r.BodySize, r.End, r.Fault)
	}
}

// TestPace holds how long a reply takes in total: the first token, and the tokens after it.
func TestPace(t *testing.T) {
	for _, f := range faces() {
		for _, stream := range []bool{false, true} {
			var mu sync.Mutex
			var total time.Duration
			s, url := newSim(t, Options{Dialect: f.dialect, Sleep: func(_ context.Context, d time.Duration) error {
				mu.Lock()
				defer mu.Unlock()
				total += d
				return nil
			}})
			body, headers := f.plain, f.plainHeaders()
			if stream {
				body, headers = f.stream, f.headers
			}
			run := func() time.Duration {
				total = 0
				do(t, "POST", url+f.path, body, headers...)
				return total
			}
			got := run()
			n := time.Duration(s.Requests()[0].Tokens - 1)
			if low, high := 50*time.Millisecond+n*10*time.Millisecond, 50*time.Millisecond+n*20*time.Millisecond; n < 9 || got < low || got > high {
				t.Errorf("%s, stream %v: %d tokens take %v, want %v to %v", f.dialect, stream, n+1, got, low, high)
			}
			if err := s.SetFaults(Faults{TTFT: Duration(time.Second), IntervalMax: Duration(time.Millisecond)}); err != nil {
				t.Fatal(err)
			}
			if got := run(); got != time.Second+n*time.Millisecond {
				t.Errorf("%s, stream %v: %v with other settings", f.dialect, stream, got)
			}
			if err := s.SetFaults(Faults{TTFT: None, IntervalMin: None, IntervalMax: None}); err != nil {
				t.Fatal(err)
			}
			if got := run(); got != 0 {
				t.Errorf("%s, stream %v: %v without waits", f.dialect, stream, got)
			}
		}
	}
}

func TestClientAborts(t *testing.T) {
	hold := make(chan struct{})
	s, url := newSim(t, Options{Dialect: OpenAI, Faults: Faults{TTFT: None}, Sleep: func(ctx context.Context, _ time.Duration) error {
		select {
		case <-hold:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", url+chatPath, strings.NewReader(streamOpenAI))
	req.Header.Set("Authorization", "Bearer k")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for n := 0; n < 3 && lines.Scan(); n++ { // the role, an empty line, the first token
	}
	cancel()
	waitFor(t, func() bool { return s.Stats().Running == 0 })
	if r := s.Requests()[0]; r.End != Aborted || r.Tokens != 1 || r.Status != 200 {
		t.Errorf("record: %s after %d tokens", r.End, r.Tokens)
	}
	if st := s.Stats(); st.Models["gpt-4o"].Output != 1 || st.Ends[Aborted] != 1 {
		t.Errorf("stats: %+v", st)
	}
}

func TestFaultsAreChecked(t *testing.T) {
	s, _ := newSim(t, Options{Dialect: OpenAI})
	for want, f := range map[string]Faults{
		"unknown kind":         rule(Rule{Kind: "explode"}),
		"dashscope":            rule(Rule{Kind: OKError}),
		"only one of":          rule(Rule{Kind: Close, Next: 1, Every: 2}),
		"not be negative":      rule(Rule{Kind: Close, Next: -1}),
		"from 0 to 1":          rule(Rule{Kind: Close, Rate: 2}),
		"400 to 599":           rule(Rule{Kind: Status, Status: 200}),
		"status belongs":       rule(Rule{Kind: Close, Status: 500}),
		"after_events belongs": rule(Rule{Kind: Close, AfterEvents: 1}),
		"retry_after belongs":  rule(Rule{Kind: Close, RetryAfter: 1}),
		"delay belongs":        rule(Rule{Kind: Close, Delay: 1}),
		"unknown chunking":     {Chunking: "odd"},
		"is above":             {IntervalMin: Duration(time.Second), IntervalMax: Duration(time.Millisecond)},
	} {
		if err := s.SetFaults(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if _, err := New(Options{Dialect: OpenAI, Faults: f}); err == nil {
			t.Errorf("%s: New accepts it", want)
		}
	}
	for want, o := range map[string]Options{
		"unknown dialect": {Dialect: "gemini"},
		"model name":      {Dialect: OpenAI, Models: []string{""}},
		"MaxBody":         {Dialect: OpenAI, MaxBody: -1},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestConcurrent exists for the race detector: everything at once.
func TestConcurrent(t *testing.T) {
	s, url := newSim(t, Options{Dialect: OpenAI, Faults: Faults{Chunking: Split}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				body := fmt.Sprintf(`{"model":"gpt-4o","stream":%v,"messages":[{"role":"user","content":"%d"}]}`, j%2 == 0, i)
				if got := do(t, "POST", url+chatPath, body, bearer); got.status != 200 || got.err != nil {
					t.Errorf("%d %v", got.status, got.err)
				}
				s.Requests()
				s.Stats()
				if err := s.SetFaults(Faults{Chunking: []Chunking{Split, Batch, Whole}[j%3]}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Requests != 80 || st.Ends[Finished] != 80 || st.Running != 0 {
		t.Errorf("stats: %+v", st)
	}
}
