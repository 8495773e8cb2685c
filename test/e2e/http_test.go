package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// answer is what a plain HTTP client got.
type answer struct {
	status int
	header http.Header
	body   string
}

// chatPath is where a caller's dialect sends a chat.
func chatPath(dialect string) string {
	if dialect == "anthropic" {
		return "/v1/messages"
	}
	return "/v1/chat/completions"
}

// chatBody is a chat in the caller's dialect. Both have the same form, as far as this goes.
func chatBody(model, text string, stream bool) string {
	body, err := json.Marshal(map[string]any{"model": model, "max_tokens": 4096, "stream": stream,
		"messages": []map[string]string{{"role": "user", "content": text}}})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// request makes a request with the gateway's key, as a client of that dialect. headers are names and values in turn; an
// empty value removes the header.
func request(t *testing.T, g *harness.Gateway, method, path, dialect, body string, headers ...string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("authorization", "Bearer "+g.Key)
	if body != "" {
		req.Header.Set("content-type", "application/json")
	}
	if dialect == "anthropic" {
		req.Header.Set("anthropic-version", "2023-06-01")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// do sends a request and reads the whole answer.
func do(t *testing.T, client *http.Client, req *http.Request) answer {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v after %q", req.Method, req.URL, err, body)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// chat sends a chat by plain HTTP.
func chat(t *testing.T, g *harness.Gateway, dialect, model string, headers ...string) answer {
	t.Helper()
	return do(t, http.DefaultClient, request(t, g, "POST", chatPath(dialect), dialect, chatBody(model, "Hello", false), headers...))
}

// checkError fails the test unless the answer is an error of that dialect and status, and returns its message.
func checkError(t *testing.T, dialect string, a answer, status int) string {
	t.Helper()
	var e struct {
		Type  string `json:"type"`
		Error struct {
			Type    string  `json:"type"`
			Message string  `json:"message"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || a.status != status || e.Error.Message == "" || e.Error.Type == "" {
		t.Errorf("status %d, want %d, with an error of the %s dialect: %s (%v)", a.status, status, dialect, a.body, err)
		return ""
	}
	if dialect == "anthropic" != (e.Type == "error") {
		t.Errorf("the error is not in the %s dialect: %s", dialect, a.body)
	}
	if ct := a.header.Get("content-type"); !strings.HasPrefix(ct, "application/json") {
		t.Errorf("an error with content-type %q", ct)
	}
	return e.Error.Message
}

// seen is a request as a fake provider received it.
type seen struct {
	method, path string
	header       http.Header
	body         string
	length       int64 // of the header content-length, -1 without one
}

// fake is a provider that answers every request with the same bytes, and keeps what came.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	reqs []seen
}

// newFake starts a provider that answers with status, content type and body.
func newFake(t *testing.T, status int, contentType, body string) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the gateway gave up
		}
		f.mu.Lock()
		f.reqs = append(f.reqs, seen{r.Method, r.URL.RequestURI(), r.Header.Clone(), string(b), r.ContentLength})
		f.mu.Unlock()
		w.Header().Set("content-type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the gateway may have gone
	}))
	t.Cleanup(f.Close)
	return f
}

// completion is an answer that clients of OpenAI understand.
const completion = `{"id":"c1","object":"chat.completion","created":1,"model":"upstream","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`

// requests are what has come so far.
func (f *fake) requests() []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.reqs)
}

// last is the newest request.
func (f *fake) last(t *testing.T) seen {
	t.Helper()
	all := f.requests()
	if len(all) == 0 {
		t.Fatal("the provider has received nothing")
	}
	return all[len(all)-1]
}

// tap stands before a simulator and keeps every byte of its answers, by the request header x-case.
type tap struct {
	*httptest.Server
	mu    sync.Mutex
	sent  map[string]*bytes.Buffer
	ended map[string]bool
}

func newTap(t *testing.T, h http.Handler) *tap {
	t.Helper()
	p := &tap{sent: map[string]*bytes.Buffer{}, ended: map[string]bool{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.Header.Get("x-case")
		p.mu.Lock()
		buf := &bytes.Buffer{}
		p.sent[name] = buf
		p.mu.Unlock()
		h.ServeHTTP(&tapWriter{w, p, buf}, r)
		p.mu.Lock()
		p.ended[name] = true
		p.mu.Unlock()
	}))
	t.Cleanup(p.Close)
	return p
}

// state is what the simulator has sent so far in a case, and whether that is all.
func (p *tap) state(name string) (sent string, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.sent[name]; b != nil {
		sent = b.String()
	}
	return sent, p.ended[name]
}

type tapWriter struct {
	http.ResponseWriter
	tap *tap
	buf *bytes.Buffer
}

func (w *tapWriter) Write(b []byte) (int, error) {
	w.tap.mu.Lock()
	w.buf.Write(b)
	w.tap.mu.Unlock()
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find the writer that flushes.
func (w *tapWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// streamText reads a whole stream of server-sent events of any dialect: the text in it, and whether it came to its
// proper end.
func streamText(stream string) (text string, ended bool, _ error) {
	var b strings.Builder
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "data:")
		if !ok {
			continue
		}
		data = strings.TrimSpace(data)
		if data == "[DONE]" {
			return b.String(), true, nil
		}
		var e struct {
			Type    string
			Delta   struct{ Text string }
			Choices []struct{ Delta struct{ Content string } }
			Output  struct {
				Choices []struct {
					Message      struct{ Content string }
					FinishReason string `json:"finish_reason"`
				}
			}
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return "", false, fmt.Errorf("the event %q is no JSON: %w", data, err)
		}
		b.WriteString(e.Delta.Text)
		for _, c := range e.Choices {
			b.WriteString(c.Delta.Content)
		}
		for _, c := range e.Output.Choices {
			b.WriteString(c.Message.Content)
			ended = ended || c.FinishReason == "stop"
		}
		ended = ended || e.Type == "message_stop"
	}
	return b.String(), ended, nil
}

// sprint names a case.
func sprint(parts ...any) string { return strings.TrimSpace(fmt.Sprintln(parts...)) }
