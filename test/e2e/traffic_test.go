package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/e2e/harness"
)

// flow is one kind of request that traffic sends again and again.
type flow struct {
	lane
	stream bool
	key    func() string // nil: the harness's
}

func (f flow) String() string {
	if f.stream {
		return f.name + ", streamed"
	}
	return f.name
}

// streamed doubles flows: each plain and as a stream.
func streamed(lanes ...lane) (out []flow) {
	for _, l := range lanes {
		out = append(out, flow{lane: l}, flow{lane: l, stream: true})
	}
	return out
}

// request is one request of the flow.
func (f flow) request(t testing.TB, g *harness.Gateway) *http.Request {
	body := f.fields()
	if f.stream {
		body = body.set("stream", "true")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL+f.path(), strings.NewReader(body.String()))
	if err != nil {
		t.Fatal(err)
	}
	credential := g.Key
	if f.key != nil {
		credential = f.key()
	}
	req.Header.Set("authorization", "Bearer "+credential)
	req.Header.Set("content-type", "application/json")
	if f.dialect == "anthropic" {
		req.Header.Set("anthropic-version", "2023-06-01")
	}
	return req
}

// do sends one request and says what is wrong with the answer.
func (f flow) do(t testing.TB, g *harness.Gateway, client *http.Client) error {
	resp, err := client.Do(f.request(t, g))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the answer breaks off: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d from backend %q: %s", resp.StatusCode, resp.Header.Get("x-weir-backend"), body)
	}
	return f.complete(body)
}

// complete says whether an answer has its end.
func (f flow) complete(body []byte) error {
	want := map[bool]map[string]string{
		false: {"openai": `"chat.completion"`, "anthropic": `"stop_reason"`},
		true:  {"openai": "data: [DONE]", "anthropic": "event: message_stop"},
	}[f.stream][f.dialect]
	if !bytes.Contains(body, []byte(want)) {
		return fmt.Errorf("the answer has no %s: %.200s", want, body)
	}
	return nil
}

// traffic is requests that keep coming, on connections that are used again, as applications do.
type traffic struct {
	stopped  chan struct{}
	workers  sync.WaitGroup
	sent     atomic.Int64
	mu       sync.Mutex
	counts   map[string]int
	failures []string
}

// startTraffic sends flows in turn from a number of workers, until stop is called.
func startTraffic(t testing.TB, g *harness.Gateway, workers int, flows []flow) *traffic {
	tr := &traffic{stopped: make(chan struct{}), counts: map[string]int{}}
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	client := &http.Client{Transport: transport, Timeout: harness.Patience}
	for w := range workers {
		tr.workers.Go(func() {
			for i := w; ; i++ {
				select {
				case <-tr.stopped:
					return
				default:
				}
				f := flows[i%len(flows)]
				err := f.do(t, g, client)
				tr.sent.Add(1)
				tr.mu.Lock()
				tr.counts[f.String()]++
				if err != nil {
					tr.failures = append(tr.failures, fmt.Sprintf("%s: %v", f, err))
				}
				tr.mu.Unlock()
				if err != nil { // as a client would, not to keep the machine busy with failing
					select {
					case <-tr.stopped:
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
		})
	}
	t.Cleanup(func() { tr.stop(); transport.CloseIdleConnections() })
	return tr
}

// stop ends the traffic, after its last answers, and returns what failed.
func (tr *traffic) stop() []string {
	select {
	case <-tr.stopped:
	default:
		close(tr.stopped)
	}
	tr.workers.Wait()
	return tr.failures
}

// report says what was sent.
func (tr *traffic) report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests", tr.sent.Load())
	for _, name := range slices.Sorted(maps.Keys(tr.counts)) {
		fmt.Fprintf(&b, "; %s: %d", name, tr.counts[name])
	}
	return b.String()
}

// mustHaveServed fails the test when a request failed, and shows some that did.
func (tr *traffic) mustHaveServed(t testing.TB, flows []flow) {
	t.Helper()
	failures := tr.stop()
	t.Log(tr.report())
	if len(failures) > 0 {
		t.Errorf("%d of %d requests failed, such as:\n%s", len(failures), tr.sent.Load(), strings.Join(failures[:min(10, len(failures))], "\n"))
	}
	for _, f := range flows {
		if tr.counts[f.String()] == 0 {
			t.Errorf("not one request of %s was sent", f)
		}
	}
}

// checkSecrets looks for secrets wherever the gateway shows something: its log, its admin interface, and Envoy's.
func checkSecrets(t testing.TB, g *harness.Gateway, secrets ...string) {
	t.Helper()
	places := map[string]string{"the log": g.Logs()}
	for _, path := range []string{"/metrics", "/api/status"} {
		resp, err := http.Get(g.AdminURL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		places[path] = string(body)
	}
	for _, path := range []string{"/config_dump?include_eds", "/clusters", "/stats", "/server_info", "/certs"} {
		places["Envoy's "+path] = string(g.Envoy(path))
	}
	if !strings.Contains(places["Envoy's /config_dump?include_eds"], "weir.credential") {
		t.Error("Envoy's configuration is not in its dump, so looking for secrets there shows nothing")
	}
	for place, text := range places {
		for _, s := range secrets {
			if strings.Contains(text, s) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(s))) {
				t.Errorf("%s shows the secret %.6s...", place, s)
			}
		}
	}
}
