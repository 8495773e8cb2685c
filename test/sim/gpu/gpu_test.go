package gpu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// fast is a profile a thousand times as fast as an H100, for tests that need answers and not their times.
func fast(t testing.TB) engine.Profile {
	t.Helper()
	p, err := engine.ProfileByName("qwen2.5-7b-h100")
	if err != nil {
		t.Fatal(err)
	}
	return p.Scaled(1000)
}

func pool(t testing.TB, n int, change func(*Options)) *Pool {
	t.Helper()
	o := Options{Profile: fast(t), Seed: 1}
	for range n {
		o.Addresses = append(o.Addresses, "127.0.0.1:0")
	}
	if change != nil {
		change(&o)
	}
	p, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// until waits for a condition that the servers bring about by themselves.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// ask posts a chat request, and returns the answer with its body.
func ask(t testing.TB, s *Server, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r := request(t, t.Context(), s, body, header...)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func request(t testing.TB, ctx context.Context, s *Server, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func chatBody(fields, user string) string {
	b, _ := json.Marshal(user)
	return `{"model":"m","messages":[{"role":"user","content":` + string(b) + `}]` + fields + `}`
}

// completion is an answer as OpenAI's SDKs see it.
type completion struct {
	ID, Object, Model string
	Created           int64
	Choices           []struct {
		Index   int
		Message struct{ Role, Content string }
		Delta   struct {
			Role    string
			Content *string
		}
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
		Details          struct {
			CachedTokens int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	}
}

// readStream reads server-sent events as OpenAI's SDKs do, up to [DONE].
func readStream(r io.Reader) ([]completion, error) {
	var out []completion
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Text()
		switch {
		case line == "":
		case line == "data: [DONE]":
			for sc.Scan() {
				if sc.Text() != "" {
					return out, fmt.Errorf("after the end comes %q", sc.Text())
				}
			}
			return out, sc.Err()
		case strings.HasPrefix(line, "data: "):
			var c completion
			if err := json.Unmarshal([]byte(line[6:]), &c); err != nil {
				return out, fmt.Errorf("%q: %w", line, err)
			}
			out = append(out, c)
		default:
			return out, fmt.Errorf("a line that is no event: %q", line)
		}
	}
	return out, errors.Join(sc.Err(), errors.New("the stream does not say that it is done"))
}

func TestPlain(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	prompt := strings.Repeat("Why is the sky blue? ", 100)
	resp, body := ask(t, s, chatBody(`,"max_tokens":20,"ignore_eos":true`, prompt))
	var c completion
	if err := json.Unmarshal([]byte(body), &c); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s %v", resp.StatusCode, resp.Header, body, err)
	}
	whole := "<|im_start|>user\n" + prompt + "<|im_end|>\n<|im_start|>assistant\n"
	u := c.Usage
	if c.Object != "chat.completion" || c.Model != "m" || !strings.HasPrefix(c.ID, "chatcmpl-") || len(c.Choices) != 1 || *c.Choices[0].FinishReason != "length" ||
		len(c.Choices[0].Message.Content) != 80 || c.Choices[0].Message.Role != "assistant" {
		t.Errorf("%s", body)
	}
	if u.PromptTokens != (len(whole)+3)/4 || u.CompletionTokens != 20 || u.TotalTokens != u.PromptTokens+20 || u.Details.CachedTokens != 0 {
		t.Errorf("%+v", u)
	}
	if resp.Header.Get("endpoint-load-metrics") != "" {
		t.Error("a load report that nobody asked for")
	}

	// The same again is in the cache but for its last block.
	_, body = ask(t, s, chatBody(`,"max_completion_tokens":20`, prompt))
	var again completion
	if err := json.Unmarshal([]byte(body), &again); err != nil {
		t.Fatal(err)
	}
	if want := (u.PromptTokens - 1) / 16 * 16; again.Usage.Details.CachedTokens != want {
		t.Errorf("cached %d of %d, want %d", again.Usage.Details.CachedTokens, u.PromptTokens, want)
	}
	if again.ID == c.ID || again.Choices[0].Message.Content[:4] != c.Choices[0].Message.Content[:4] {
		t.Errorf("got %s", body)
	}
	// A conversation that goes on finds the answer in the cache, too.
	next, _ := json.Marshal([]map[string]string{{"role": "user", "content": prompt}, {"role": "assistant", "content": c.Choices[0].Message.Content}, {"role": "user", "content": "And?"}})
	_, body = ask(t, s, `{"model":"m","max_tokens":1,"messages":`+string(next)+`}`)
	if err := json.Unmarshal([]byte(body), &again); err != nil {
		t.Fatal(err)
	}
	if want := (len(whole) + 79) / 64 * 16; again.Usage.Details.CachedTokens < want-16 || again.Usage.Details.CachedTokens <= u.PromptTokens {
		t.Errorf("cached %d of the conversation, want about %d", again.Usage.Details.CachedTokens, want)
	}
	if st := s.Stats(); st.Requests != 3 || st.Served != 3 || st.Engine.Finished != 3 {
		t.Errorf("%+v", st)
	}
}

func TestStream(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	_, plain := ask(t, s, chatBody("", "a question"))
	var whole completion
	if err := json.Unmarshal([]byte(plain), &whole); err != nil {
		t.Fatal(err)
	}
	for _, usage := range []bool{false, true} {
		fields := `,"stream":true`
		if usage {
			fields += `,"stream_options":{"include_usage":true}`
		}
		resp, body := ask(t, s, chatBody(fields, "a question"))
		if got := resp.Header.Get("Content-Type"); got != "text/event-stream; charset=utf-8" || resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, got)
		}
		chunks, err := readStream(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if usage {
			last := chunks[len(chunks)-1]
			chunks = chunks[:len(chunks)-1]
			if len(last.Choices) != 0 || last.Usage == nil || last.Usage.CompletionTokens != whole.Usage.CompletionTokens || last.Usage.PromptTokens != whole.Usage.PromptTokens {
				t.Errorf("the last event is %+v", last)
			}
		}
		var text strings.Builder
		for i, c := range chunks {
			if c.Usage != nil || c.Object != "chat.completion.chunk" || c.ID != chunks[0].ID || len(c.Choices) != 1 || c.Choices[0].Delta.Content == nil {
				t.Fatalf("event %d is %+v", i, c)
			}
			if (c.Choices[0].Delta.Role == "assistant") != (i == 0) || (c.Choices[0].FinishReason != nil) != (i == len(chunks)-1) {
				t.Errorf("event %d is %+v", i, c.Choices[0])
			}
			text.WriteString(*c.Choices[0].Delta.Content)
		}
		if text.String() != whole.Choices[0].Message.Content || *chunks[len(chunks)-1].Choices[0].FinishReason != "stop" {
			t.Errorf("got %q, want %q", text.String(), whole.Choices[0].Message.Content)
		}
	}
}

func TestRefused(t *testing.T) {
	s := pool(t, 1, func(o *Options) { o.Models = []string{"m", "n"}; o.Profile.KVTokens = 1600 }).Servers[0]
	for _, test := range []struct {
		body, says string
		status     int
	}{
		{`{`, "cannot be read", 400},
		{`{"model":"m"}`, "messages: a list", 400},
		{`{"messages":[{"role":"user","content":"x"}]}`, "model: field required", 400},
		{`{"model":"x","messages":[{"role":"user","content":"x"}]}`, "The model `x` does not exist.", 404},
		{`{"model":"m","messages":[{"content":"x"}]}`, "messages[0].role", 400},
		{`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, "not a multimodal model", 400},
		{`{"model":"m","messages":[{"role":"user","content":7}]}`, "a string or a list", 400},
		{chatBody(`,"max_tokens":0`, "x"), "at least 1", 400},
		{chatBody(`,"max_tokens":5,"min_tokens":6`, "x"), "min_tokens", 400},
		{chatBody(`,"n":2`, "x"), "n must be 1", 400},
		{chatBody(`,"stream_options":{"include_usage":true}`, "x"), "when stream is true", 400},
		{chatBody(`,"max_tokens":1600`, "x"), "maximum context length is 1600 tokens", 400},
		{chatBody(``, strings.Repeat("long", 1600)), "contains 1613 input tokens", 400},
	} {
		resp, body := ask(t, s, test.body)
		var e struct {
			Error struct {
				Message, Type string
				Code          int
			}
		}
		if err := json.Unmarshal([]byte(body), &e); err != nil || resp.StatusCode != test.status || e.Error.Code != test.status || !strings.Contains(e.Error.Message, test.says) {
			t.Errorf("%.60s: %d %s, want %d %q", test.body, resp.StatusCode, body, test.status, test.says)
		}
	}
	if st := s.Stats(); st.Requests != 13 || st.Refused != 13 || st.Engine.Submitted != 0 {
		t.Errorf("%+v", st)
	}
	if status, body := get(t, s.URL()+"/v1/models"); status != 200 || !strings.Contains(body, `"id":"n"`) || !strings.Contains(body, `"max_model_len":1600`) {
		t.Errorf("models: %d %s", status, body)
	}
	if status, _ := get(t, s.URL()+"/health"); status != 200 {
		t.Errorf("health: %d", status)
	}
}

// TestAbort holds a server to freeing the place of a client that leaves: before the answer begins, and in the middle of it.
func TestAbort(t *testing.T) {
	p := pool(t, 1, func(o *Options) {
		o.Profile = o.Profile.Scaled(0.01) // a token takes 0.7 ms: nothing ends of itself
		o.Profile.MaxSeqs = 1
	})
	s := p.Servers[0]
	ctx, leave := context.WithCancel(t.Context())
	long := chatBody(`,"stream":true,"ignore_eos":true,"max_tokens":900000`, "x")
	resp, err := http.DefaultClient.Do(request(t, ctx, s, long))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"role":"assistant"`) {
		t.Fatalf("%q %v", line, err)
	}
	// A plain one waits behind it.
	gone, goAway := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(request(t, gone, s, chatBody("", "y")))
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	until(t, "one waits", func() bool { return s.Stats().Engine.Waiting == 1 })
	goAway()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the one that waited got %v", err)
	}
	until(t, "nobody waits", func() bool { return s.Stats().Engine.Waiting == 0 })
	if st := s.Stats().Engine; st.Running != 1 || st.KVUsed == 0 {
		t.Errorf("%+v", st)
	}
	leave()
	until(t, "the cache is free", func() bool { e := s.Stats().Engine; return e.Running == 0 && e.KVUsed == 0 && e.Canceled == 2 })
	until(t, "both are counted", func() bool { return s.Stats().Aborted == 2 })
	if _, body := get(t, s.URL()+"/metrics"); !strings.Contains(body, `vllm:request_success_total{engine="0",finished_reason="abort",model_name="Qwen/Qwen2.5-7B-Instruct"} 2.0`) {
		t.Error(body)
	}
}

func TestKillAndRevive(t *testing.T) {
	p := pool(t, 2, func(o *Options) { o.Profile = o.Profile.Scaled(0.01); o.DCGMPort = AnyPort })
	s := p.Servers[0]
	resp, err := http.DefaultClient.Do(request(t, t.Context(), s, chatBody(`,"stream":true,"ignore_eos":true,"max_tokens":900000`, "x")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.Kill()
	s.Kill()
	if _, err := readStream(resp.Body); err == nil || s.Alive() {
		t.Errorf("the stream of a killed server ends with %v; alive: %v", err, s.Alive())
	}
	for _, addr := range []string{s.Addr(), s.DCGMAddr()} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s of a killed server takes connections", addr)
		}
	}
	until(t, "the engine is empty", func() bool { return s.Stats().Engine.Running == 0 && s.Stats().Aborted == 1 })
	if resp, body := ask(t, p.Servers[1], chatBody(`,"max_tokens":3`, "x")); resp.StatusCode != 200 {
		t.Errorf("the other server: %d %s", resp.StatusCode, body)
	}
	for range 2 {
		if err := s.Revive(); err != nil {
			t.Fatal(err)
		}
	}
	if resp, body := ask(t, s, chatBody(`,"max_tokens":3`, "x")); resp.StatusCode != 200 || !s.Alive() {
		t.Errorf("revived: %d %s", resp.StatusCode, body)
	}
	if status, body := get(t, "http://"+s.DCGMAddr()+"/metrics"); status != 200 || !strings.Contains(body, "DCGM_FI_DEV_GPU_UTIL") {
		t.Errorf("the exporter: %d %s", status, body)
	}
	p.Close()
	if err := s.Revive(); err == nil {
		t.Error("a server of a closed pool is revived")
	}
}

func TestFaults(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	set := func(f Fault) {
		t.Helper()
		if err := s.Set(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, stream := range []string{"", `,"stream":true`} {
		set(Fault{ErrorRate: 1})
		if resp, body := ask(t, s, chatBody(stream, "x")); resp.StatusCode != 500 || !strings.Contains(body, "the engine failed") {
			t.Errorf("error rate 1: %d %s", resp.StatusCode, body)
		}
		set(Fault{Fail: 429})
		if resp, body := ask(t, s, chatBody(stream, "x")); resp.StatusCode != 429 || !strings.Contains(body, "RateLimitError") {
			t.Errorf("fail: %d %s", resp.StatusCode, body)
		}
	}
	set(Fault{Health: 503, MetricsOff: true})
	for _, path := range []string{"/health", "/metrics", "/dcgm/metrics"} {
		if status, _ := get(t, s.URL()+path); status != 503 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if resp, _ := ask(t, s, chatBody("", "x")); resp.StatusCode != 200 {
		t.Errorf("blind and unwell, but at work: %d", resp.StatusCode)
	}
	// A stalled server takes requests, and answers them later.
	set(Fault{Stall: true})
	resp, err := http.DefaultClient.Do(request(t, t.Context(), s, chatBody(`,"stream":true`, "x")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if e := s.Stats().Engine; e.Waiting != 1 || e.Running != 0 {
		t.Errorf("%+v", e)
	}
	set(Fault{})
	if _, err := readStream(resp.Body); err != nil {
		t.Error(err)
	}
	// A reading that takes too long can be given up.
	set(Fault{MetricsDelay: Duration(time.Hour)})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/metrics", nil)
	if resp, err := http.DefaultClient.Do(r); err == nil {
		resp.Body.Close()
		t.Error("a page that takes an hour is there")
	}
	for says, f := range map[string]Fault{
		"speed is -1": {Speed: -1}, "errorRate is 2": {ErrorRate: 2}, "fail is 42": {Fail: 42}, "health is 7": {Health: 7},
		"metricsDelay": {MetricsDelay: -1}, "override.kvCache is 1.1": {Override: Override{KVCache: new(1.1)}}, "queueDelay": {Override: Override{QueueDelay: new(Duration(-1))}},
	} {
		if err := s.Set(f); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestORCA(t *testing.T) {
	s := pool(t, 1, nil).Servers[0]
	if err := s.Set(Fault{Override: Override{KVCache: new(0.4), Waiting: new(3.0)}}); err != nil {
		t.Fatal(err)
	}
	const header = "endpoint-load-metrics"
	for format, want := range map[string]string{
		"TEXT": "TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=3.0",
		"json": `JSON {"named_metrics": {"kv_cache_usage_perc": 0.4, "num_requests_waiting": 3.0}}`,
		"BIN":  "",
	} {
		if resp, _ := ask(t, s, chatBody("", "x"), header+"-format", format); resp.Header.Get(header) != want {
			t.Errorf("%s: %q, want %q", format, resp.Header.Get(header), want)
		}
		if resp, _ := ask(t, s, chatBody(`,"stream":true`, "x"), header+"-format", format); resp.Header.Get(header) != "" {
			t.Errorf("%s: a stream carries %q; vLLM's do not", format, resp.Header.Get(header))
		}
	}
	if err := s.Set(Fault{ORCAStreams: true}); err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, s, chatBody(`,"stream":true`, "x"), header+"-format", "text"); !strings.HasPrefix(resp.Header.Get(header), "TEXT named_metrics.kv_cache_usage_perc=") {
		t.Errorf("a stream carries %q", resp.Header.Get(header))
	}
}

// control posts a command.
func control(t *testing.T, s *Server, body string) (int, []byte) {
	t.Helper()
	resp, err := http.Post(s.URL()+"/control", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestControl(t *testing.T) {
	p := pool(t, 3, nil)
	one := p.Servers[1]
	ok := func(body string) []state {
		t.Helper()
		status, b := control(t, p.Servers[0], body)
		var out []state
		if err := json.Unmarshal(b, &out); err != nil || status != 200 || len(out) != 3 {
			t.Fatalf("%s: %d %s %v", body, status, b, err)
		}
		return out
	}
	ok(`{"servers":[1],"speed":0.4,"override":{"gpuUtilization":0.91,"queueDelay":"620ms"}}`)
	ok(`{"servers":[1],"stall":true,"override":{"gpuUtilization":null}}`)
	f := one.Fault()
	if f.Speed != 0.4 || !f.Stall || f.Override.GPUUtilization != nil || *f.Override.QueueDelay != Duration(620*time.Millisecond) {
		t.Errorf("%+v", f)
	}
	if f := p.Servers[0].Fault(); f != (Fault{}) {
		t.Errorf("server 0 has %+v", f)
	}
	ok(`{"servers":[1],"reset":true,"health":500}`)
	if f := one.Fault(); f != (Fault{Health: 500}) {
		t.Errorf("%+v", f)
	}
	ok(`{"all":true,"errorRate":0.5}`)
	if f := p.Servers[2].Fault(); f != (Fault{ErrorRate: 0.5}) {
		t.Errorf("%+v", f)
	}
	if st := ok(`{"servers":[1,2],"kill":true}`); st[1].Alive || st[2].Alive || !st[0].Alive || st[2].Fault.ErrorRate != 0.5 || st[1].Address != one.Addr() {
		t.Errorf("%+v", st)
	}
	if st := ok(`{"servers":[1],"revive":true}`); !st[1].Alive || st[2].Alive {
		t.Errorf("%+v", st)
	}
	if status, body := get(t, p.Servers[0].URL()+"/control"); status != 200 || !strings.Contains(body, `"alive":false`) {
		t.Errorf("%d %s", status, body)
	}
	for body, says := range map[string]string{
		`{"sped":1}`: "unknown field", `{"speed":1}{}`: "more after the end", `{"speed":"x"}`: "cannot be read", `{"servers":[3]}`: "there is no server 3",
		`{"all":true,"errorRate":7}`: "errorRate is 7", `{"kill":true,"revive":true}`: "at once", `{"metricsDelay":"soon"}`: "cannot be read",
	} {
		if status, b := control(t, p.Servers[0], body); status != 400 || !bytes.Contains(b, []byte(says)) {
			t.Errorf("%s: %d %s", body, status, b)
		}
	}
	if f := p.Servers[0].Fault(); f != (Fault{ErrorRate: 0.5}) {
		t.Errorf("a command that was refused has changed something: %+v", f)
	}
	// Who is told to kill itself answers first.
	if st := ok(`{"kill":true}`); !st[0].Alive {
		t.Errorf("%+v", st)
	}
	until(t, "it is dead", func() bool { return !p.Servers[0].Alive() })
}

func TestStartRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for says, o := range map[string]Options{
		"no server without an address": {},
		"serves loopback only":         {Addresses: []string{"127.0.0.1:0", "0.0.0.0:0"}},
		"cannot listen on":             {Addresses: []string{taken.Addr().String()}},
		"DCGM interval":                {Addresses: []string{":0"}, DCGMInterval: -1},
		"no port for DCGM":             {Addresses: []string{":0"}, DCGMPort: 70000},
		"answers of -1":                {Addresses: []string{":0"}, OutputTokens: -1},
		"must take time":               {Addresses: []string{":0"}, Profile: engine.Profile{Name: "x"}},
		"give each a host of its own":  {Addresses: []string{":0", ":0"}, DCGMPort: taken.Addr().(*net.TCPAddr).Port},
	} {
		if p, err := Start(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", o, err, says)
			if p != nil {
				p.Close()
			}
		}
	}
}
