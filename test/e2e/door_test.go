package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	extmessage "github.com/weir-dev/weir/extproc/message"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// door stands between Envoy and the decisions.
type door struct {
	mu   sync.Mutex
	seen map[string][]extmessage.Field // what peek.lua found, by request ID
	// answer is called with each decision on the headers of a request before it is sent.
	answer func(id string, m *extprocv3.ProcessingResponse)
}

// option puts the door before a server.
func (d *door) option() grpc.ServerOption {
	d.seen = map[string][]extmessage.Field{}
	return grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		if info.FullMethod != extprocv3.ExternalProcessor_Process_FullMethodName {
			return handle(srv, s)
		}
		return handle(srv, &doorStream{ServerStream: s, door: d})
	})
}

// peeked is what peek.lua found of a request; nil before it has come.
func (d *door) peeked(id string) []extmessage.Field {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen[id]
}

type doorStream struct {
	grpc.ServerStream
	door *door
	id   string // of the request; "" for an attempt
}

func (s *doorStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	req, ok := m.(*extmessage.Request)
	if err != nil || !ok || req.Kind != extmessage.RequestHeaders || req.Attributed {
		return err
	}
	for _, h := range req.Headers {
		if h.Name == "x-request-id" {
			s.id = h.Value
		}
	}
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.door.seen[s.id] = append([]extmessage.Field{}, req.Peek...)
	return nil
}

// SendMsg hands on what is sent as Envoy reads it.
func (s *doorStream) SendMsg(m any) error {
	own, ok := m.(wire.Marshaler)
	if !ok || s.id == "" || s.door.answer == nil {
		return s.ServerStream.SendMsg(m)
	}
	data, err := own.MarshalWire()
	if err != nil {
		return err
	}
	resp := new(extprocv3.ProcessingResponse)
	if err := proto.Unmarshal(data.Materialize(), resp); err != nil {
		return err
	}
	if resp.GetRequestHeaders() != nil {
		s.door.answer(s.id, resp)
	}
	return s.ServerStream.SendMsg(resp)
}

// twoBackends are one backend of each dialect at a URL, and a route to them by model: "gpt" and "claude" to one, "both" to
// the first of them, with the other to fall back on.
func twoBackends(url string) ([]harness.Backend, []string) {
	return []harness.Backend{
			{Name: "one", Dialect: "openai", URL: url + "/v1", Models: []string{"gpt", "both"}},
			{Name: "two", Dialect: "anthropic", URL: url, Models: []string{"claude", "both"}},
		}, []string{harness.Route("all", `
rules:
  - matches: [{models: [gpt, claude]}]
    backends: [{name: one}, {name: two}]
  - backends: [{name: one}, {name: two, priority: 1}]
`)}
}

// TestCallerLeavesBeforeTheDecision: a request whose caller has gone while Envoy waited has a record, without anything of
// the decision, but with the ID that the decision knew it by.
func TestCallerLeavesBeforeTheDecision(t *testing.T) {
	t.Parallel()
	backend := newFake(t, 200, "application/json", completion)
	go1 := make(chan struct{})
	d := &door{answer: func(string, *extprocv3.ProcessingResponse) { <-go1 }}
	backends, documents := twoBackends(backend.URL)
	p := newPlane(t, planeOptions{backends: backends, documents: documents, grpc: []grpc.ServerOption{d.option()}})
	defer close(go1)
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2": {Transport: &http.Transport{Protocols: &h2}}}
	for protocol, client := range clients {
		t.Cleanup(client.CloseIdleConnections)
		for _, model := range []string{"gpt", "claude", "both"} {
			id := model + " over " + protocol
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan error, 1)
			req := request(t, p.gateway(), "POST", "/v1/chat/completions", "openai", chatBody(model, "hi", true), "x-request-id", id).WithContext(ctx)
			go func() {
				resp, err := client.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				done <- err
			}()
			harness.WaitFor(t, "the decision on "+id, func() bool { return d.peeked(id) != nil })
			leave()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", id, err)
			}
			r, known := p.record(t, id), extmessage.Text(d.peeked(id), wire.PeekID)
			if known == "" || r.PeekID != known || r.Exchange != "" || r.Route != "" || !r.Aborted || r.Status != 0 {
				t.Errorf("%s: the decision knew %q, the record is %+v", id, known, r)
			}
		}
	}
	if n := len(backend.requests()); n > 0 {
		t.Errorf("%d requests reached a backend", n)
	}
}

// TestAnswerHeaders: callers see the limits that Weir has set, and none of the provider's.
func TestAnswerHeaders(t *testing.T) {
	t.Parallel()
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		for _, name := range append([]string{"anthropic-ratelimit-requests-limit", "x-ratelimit-limit-images", "x-weir-cache"}, wire.AnswerHeaders...) {
			h.Set(name, "the provider's")
		}
		h.Set("content-type", "application/json")
		body := completion
		if strings.HasSuffix(r.URL.Path, "/messages") {
			body = `{"id":"m","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`
		}
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(provider.Close)
	d := &door{answer: func(id string, m *extprocv3.ProcessingResponse) {
		fields := m.GetDynamicMetadata().GetFields()[wire.DecisionNamespace].GetStructValue().GetFields()
		for i, name := range wire.AnswerHeaders {
			switch {
			case strings.HasSuffix(id, "all"):
				fields[name] = structpb.NewStringValue(fmt.Sprint(i))
			case strings.HasSuffix(id, "empty"):
				fields[name] = structpb.NewStringValue("")
			}
		}
	}}
	backends, documents := twoBackends(provider.URL)
	p := newPlane(t, planeOptions{backends: backends, documents: documents, grpc: []grpc.ServerOption{d.option()}})
	for _, c := range []struct{ name, dialect, model string }{
		{"direct", "openai", "gpt"}, {"direct", "anthropic", "claude"}, {"chain", "openai", "both"}, {"translated", "openai", "claude"},
	} {
		for _, set := range []string{"all", "none", "empty"} {
			id := sprint(c.dialect, c.name, set)
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				got := do(t, http.DefaultClient, request(t, p.gateway(), "POST", chatPath(c.dialect), c.dialect, chatBody(c.model, "hi", false), "x-request-id", id))
				if got.status != 200 {
					t.Fatalf("status %d: %s", got.status, got.body)
				}
				var want []string
				for i, name := range wire.AnswerHeaders {
					values := got.header.Values(name)
					if set == "all" {
						want = []string{fmt.Sprint(i)}
					}
					if fmt.Sprint(values) != fmt.Sprint(want) {
						t.Errorf("%s: %q, want %q", name, values, want)
					}
				}
				for name, values := range got.header {
					if strings.Contains(strings.Join(values, ""), "the provider's") {
						t.Errorf("%s: %q", name, values)
					}
				}
			})
		}
	}
}

// TestCallerAddress: decisions know the address that the connection comes from or, behind proxies, the one that the first
// of the trusted ones saw.
func TestCallerAddress(t *testing.T) {
	t.Parallel()
	for hops, want := range map[int]string{0: "127.0.0.1", 1: "192.0.2.3", 2: "2001:db8::2"} {
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			t.Parallel()
			d := &door{}
			backends, documents := twoBackends("http://127.0.0.1:1")
			p := newPlane(t, planeOptions{
				listener: fmt.Sprintf("authentication: {trustedHops: %d}", hops),
				backends: backends, documents: documents, grpc: []grpc.ServerOption{d.option()},
			})
			for _, method := range []string{"GET", "POST"} {
				id := method + " by " + fmt.Sprint(hops)
				do(t, http.DefaultClient, request(t, p.gateway(), method, "/v1/models", "openai", "", "x-request-id", id,
					"x-forwarded-for", "192.0.2.1, 2001:db8::2, 192.0.2.3"))
				source := extmessage.Text(d.peeked(id), wire.PeekSource)
				if host, _, _ := strings.Cut(strings.Trim(source, "["), "]"); host != want && !strings.HasPrefix(host, want+":") {
					t.Errorf("%s: %q, want the address %s", id, source, want)
				}
			}
		})
	}
}
