package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
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

// ask is a request, sent once or again and again.
type ask struct {
	model  string
	stream bool
	// backend that must have answered, "namespace/name"; "" is any.
	backend string
	// also is a status, beside 200, that is meant to happen; nil where none is. It may change while requests run.
	also *atomic.Int64
	// key of the caller; "" is the harness's.
	key string
}

// reply is what came of it.
type reply struct {
	status  int
	backend string
	body    []byte
}

// send sends it once. An error says what is wrong with the answer, a status other than 200 apart.
func (a ask) send(ctx context.Context, client *http.Client, url string) (reply, error) {
	body := fmt.Sprintf(`{"model":%q,"max_completion_tokens":16,"stream":%t,"messages":[{"role":"user","content":"hi"}]}`, a.model, a.stream)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	key := a.key
	if key == "" {
		key = harness.DefaultKey
	}
	req.Header.Set("authorization", "Bearer "+key)
	req.Header.Set("content-type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	out := reply{status: resp.StatusCode, backend: resp.Header.Get("x-weir-backend")}
	if out.body, err = io.ReadAll(resp.Body); err != nil {
		return out, fmt.Errorf("the answer breaks off: %w", err)
	}
	end := `"chat.completion"`
	if a.stream {
		end = "data: [DONE]"
	}
	if out.status == http.StatusOK && !bytes.Contains(out.body, []byte(end)) {
		return out, fmt.Errorf("the answer has no %s: %.200s", end, out.body)
	}
	return out, nil
}

// once sends it on a connection of its own; the test fails when there is no answer.
func (a ask) once(t testing.TB, url string) reply {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: harness.Patience}
	out, err := a.send(t.Context(), client, url)
	must(t, err)
	return out
}

// mustServe sends it once, and the answer must be 200.
func (a ask) mustServe(t testing.TB, url string) reply {
	t.Helper()
	out := a.once(t, url)
	if out.status != http.StatusOK || a.backend != "" && out.backend != a.backend {
		t.Errorf("model %s: status %d from backend %q, want 200 from %q: %s", a.model, out.status, out.backend, a.backend, out.body)
	}
	return out
}

// load is requests that keep coming, on connections that are used again, as applications do.
type load struct {
	t       testing.TB
	client  *http.Client
	stopped chan struct{}
	workers sync.WaitGroup

	mu       sync.Mutex
	sent     map[string]int // by model
	statuses map[int]int
	backends map[string]int
	failures []string
	rounds   int64
}

// startLoad has callers send all of asks in turn, until stop is called.
func startLoad(t testing.TB, url string, callers int, asks ...ask) *load {
	return start(t, &http.Transport{MaxIdleConnsPerHost: callers}, url, callers, asks)
}

// startFresh does so with a new connection for every request.
func startFresh(t testing.TB, url string, callers int, asks ...ask) *load {
	return start(t, &http.Transport{DisableKeepAlives: true}, url, callers, asks)
}

func start(t testing.TB, transport *http.Transport, url string, callers int, asks []ask) *load {
	l := &load{t: t, stopped: make(chan struct{}), sent: map[string]int{}, statuses: map[int]int{}, backends: map[string]int{}}
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // whose certificate it is, is not the question here
	l.client = &http.Client{Transport: transport, Timeout: harness.Patience}
	for caller := range callers {
		l.workers.Go(func() {
			for i := caller; ; i++ {
				select {
				case <-l.stopped:
					return
				default:
				}
				if !l.one(url, asks[i%len(asks)]) {
					select { // as a client would, not to keep the machine busy with failing
					case <-l.stopped:
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
		})
	}
	t.Cleanup(func() { l.stop(); transport.CloseIdleConnections() })
	return l
}

func (l *load) one(url string, a ask) bool {
	var meant int64
	if a.also != nil {
		meant = a.also.Load()
	}
	out, err := a.send(context.WithoutCancel(l.t.Context()), l.client, url)
	if err == nil && out.status != http.StatusOK {
		// What was meant when the request began, or when it ended.
		if a.also == nil || int64(out.status) != meant && int64(out.status) != a.also.Load() {
			err = fmt.Errorf("status %d from backend %q: %s", out.status, out.backend, out.body)
		}
	} else if err == nil && a.backend != "" && out.backend != a.backend {
		err = fmt.Errorf("served by %q, not by %q", out.backend, a.backend)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rounds++
	l.sent[a.model]++
	l.statuses[out.status]++
	l.backends[out.backend]++
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s model %s: %v", time.Now().Format("15:04:05.000"), a.model, err))
	}
	return err == nil && out.status == http.StatusOK
}

// count is how many requests have ended.
func (l *load) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rounds
}

// more waits until n more requests have ended, so that something is seen to hold for a while.
func (l *load) more(n int64) {
	l.t.Helper()
	want := l.count() + n
	eventually(l.t, "requests go on", func() (bool, string) { now := l.count(); return now >= want, fmt.Sprint(now, " of ", want) })
}

// stop ends the load after its last answers.
func (l *load) stop() {
	select {
	case <-l.stopped:
	default:
		close(l.stopped)
	}
	l.workers.Wait()
}

// mustHaveServed ends the load, and fails the test when a request has failed that was not meant to.
func (l *load) mustHaveServed() {
	l.t.Helper()
	l.stop()
	var counts []string
	for _, status := range slices.Sorted(maps.Keys(l.statuses)) {
		counts = append(counts, fmt.Sprintf("%d of status %d", l.statuses[status], status))
	}
	l.t.Logf("%d requests, %d failed; %s; by backends %v", l.rounds, len(l.failures), strings.Join(counts, ", "), l.backends)
	if len(l.failures) > 0 {
		l.t.Errorf("%d of %d requests failed, such as:\n%s", len(l.failures), l.rounds, strings.Join(l.failures[:min(10, len(l.failures))], "\n"))
	}
	if l.statuses[http.StatusOK] == 0 {
		l.t.Error("not one request was served")
	}
}
