package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/test/e2e/harness"
)

// listener is a server that keeps what it was asked.
type listener struct {
	*httptest.Server
	mu  sync.Mutex
	got []*http.Request
	sum []string // bodies
}

func newListener(t *testing.T) *listener {
	t.Helper()
	l := &listener{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.got, l.sum = append(l.got, r), append(l.sum, string(body))
		w.Header().Set("content-type", "application/json")
		_, _ = io.WriteString(w, `{}`)
	}))
	t.Cleanup(l.Close)
	return l
}

// taken is what has come since the last call.
func (l *listener) taken() ([]*http.Request, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	got, sum := l.got, l.sum
	l.got, l.sum = nil, nil
	return got, sum
}

// TestLostAttempts: Weir has decided, and does not answer when the attempt is to be prepared.
func TestLostAttempts(t *testing.T) {
	servers := map[string]*listener{}
	var docs []string
	for name, spec := range map[string]string{
		"open": "models: [{name: m}, {name: alias, upstreamName: m}]\n", "any": "", "closed": "", "secret": "credential: {secretRef: {env: WEIR_TEST_SECRET}}\n",
	} {
		s := newListener(t)
		servers[name] = s
		host, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
		docs = append(docs, harness.Document("Backend", name, fmt.Sprintf("dialect: openai\nbasePath: /base\nendpoints: [{address: %s, port: %s}]\n", host, port)+spec))
		mode := "Open"
		if name == "closed" {
			mode = "Closed"
		}
		docs = append(docs, harness.Document("LoadPolicy", name, "targetRefs: [{kind: Backend, name: "+name+"}]\nfailureMode: "+mode+"\n"))
	}
	t.Setenv("WEIR_TEST_SECRET", "sk-of-the-gateway")
	docs = append(docs, harness.Route("r", "rules: [{backends: [{name: open}, {name: any}, {name: closed}, {name: secret}]}]\n"))
	_, url, v := newDirected(t, docs)

	const body = `{"model":"m","messages":[]}`
	const facts = wire.KeyDialect + "=openai," + wire.KeyOperation + "=chat," + wire.KeyModel + "=m"
	for _, c := range []struct {
		name, from, facts string
		prepared          bool
		want              bool
	}{
		{"weir prepares it", "open", facts, true, true},
		{"weir prepares it for a backend that fails closed", "closed", facts, true, true},
		{"a backend that fails open", "open", facts, false, true},
		{"one for any model", "any", strings.Replace(facts, "=m", "=whatever", 1), false, true},
		{"one that fails closed", "closed", facts, false, false},
		{"one that wants a credential", "secret", facts, false, false},
		{"another model", "open", strings.Replace(facts, "=m", "=n", 1), false, false},
		{"a model that is renamed", "open", strings.Replace(facts, "=m", "=alias", 1), false, false},
		{"another dialect", "open", strings.Replace(facts, "openai", "anthropic", 1), false, false},
		{"an operation that is none of the dialect", "open", strings.Replace(facts, "chat", "count_tokens", 1), false, false},
		{"no facts", "open", "", false, false},
	} {
		keys := firstKeys(t, v, "default/r", "default/"+c.from)
		req, err := http.NewRequest("POST", url+"/team/v1/chat/completions?x=1", strings.NewReader(body))
		must(t, err)
		for k, v := range map[string]string{
			"content-type": "application/json", "authorization": "Bearer " + harness.DefaultKey, "x-api-key": harness.DefaultKey, "cookie": "a=b", "openai-beta": "b-1",
			"accept-encoding": "gzip", askRoute: keys.Chain, askFacts: c.facts,
		} {
			req.Header.Set(k, v)
		}
		if !c.prepared {
			req.Header.Set(askLost, "yes")
		}
		a := do(t, http.DefaultClient, req)
		asked := 0
		for name, s := range servers {
			got, bodies := s.taken()
			asked += len(got)
			for i, r := range got {
				if !c.want || name != c.from && c.prepared {
					t.Errorf("%s: %s was asked", c.name, name)
				}
				if c.prepared {
					continue // the test's own answer prepares little
				}
				if r.URL.String() != "/base/chat/completions?x=1" || r.Host != strings.TrimPrefix(s.URL, "http://") || bodies[i] != body || r.Header.Get("openai-beta") != "b-1" || r.ContentLength != int64(len(body)) {
					t.Errorf("%s: %s of %s with %v: %s", c.name, r.URL, r.Host, r.Header, bodies[i])
				}
				for h := range r.Header {
					if lower := strings.ToLower(h); lower == "authorization" || lower == "x-api-key" || lower == "cookie" || lower == "accept-encoding" || strings.HasPrefix(lower, "x-weir-") {
						t.Errorf("%s: the backend got %s", c.name, h)
					}
				}
			}
		}
		if c.want && (a.status != 200 || asked != 1) || !c.want && (a.status != 503 || asked != 0 || a.header.Get("retry-after") != "1") {
			t.Errorf("%s: status %d, %d attempts: %v %s", c.name, a.status, asked, a.header, a.body)
		}
	}
}
