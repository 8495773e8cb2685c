package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/sim/gpu"
	"github.com/weir-dev/weir/test/sim/gpu/engine"
)

// steeredPool is a Backend of simulated GPU servers, which callers ask for by its name as the model.
type steeredPool struct {
	name    string
	servers *gpu.Pool
	backend string // further fields of the Backend
	policy  string // fields of its LoadPolicy beside targetRefs; "-": it has none
	retry   int    // attempts; 0: no retries
	models  string // further ones, ", {name: a}"
}

// steered is a gateway in front of pools.
type steered struct {
	*harness.Gateway
	pools map[string]*gpu.Pool // by name
}

// startSteered runs a gateway with a Route to each of the pools.
func startSteered(t *testing.T, pools []steeredPool, more ...string) *steered {
	t.Helper()
	s := &steered{pools: map[string]*gpu.Pool{}}
	docs := append([]string{}, more...)
	var rules strings.Builder
	for _, p := range pools {
		s.pools[p.name] = p.servers
		docs = append(docs, p.document())
		if p.policy != "-" {
			docs = append(docs, harness.Document("LoadPolicy", p.name, fmt.Sprintf("targetRefs: [{kind: Backend, name: %s}]\n%s", p.name, p.policy)))
		}
		fmt.Fprintf(&rules, "  - matches: [{models: [%s]}]\n    backends: [{name: %s}]\n", p.name, p.name)
		fmt.Fprintf(&rules, "    retry: {attempts: %d}\n", max(p.retry, 1)) // left out, a pool of several would get two
	}
	if rules.Len() > 0 {
		docs = append(docs, harness.Route("pools", "rules:\n"+rules.String()))
	}
	s.Gateway = harness.Start(t, harness.Options{Documents: docs})
	if problems := s.Status().Problems; len(problems) > 0 {
		t.Fatalf("problems: %q", problems)
	}
	return s
}

// document is the pool's Backend.
func (p *steeredPool) document() string {
	return harness.Document("Backend", p.name, fmt.Sprintf("dialect: openai\nbasePath: /v1\nmodels: [{name: %s}%s]\n", p.name, p.models)+harness.Endpoints(p.servers)+p.backend)
}

// quickGPUs are servers that answer small questions at once.
func quickGPUs(t *testing.T, n int, o gpu.Options) *gpu.Pool {
	t.Helper()
	if o.Profile == (engine.Profile{}) {
		o.Profile = engine.Profiles()[0].Scaled(20)
	}
	return harness.NewGPUs(t, n, o)
}

// fault sets how one server of a pool misbehaves.
func (s *steered) fault(t *testing.T, pool string, server int, f gpu.Fault) {
	t.Helper()
	must(t, s.pools[pool].Servers[server].Set(f))
}

// question is a chat with a pool.
func question(pool, text string, tokens int, stream bool) string {
	body := map[string]any{"model": pool, "max_tokens": tokens, "ignore_eos": true, "messages": []map[string]string{{"role": "user", "content": text}}}
	if stream {
		body["stream"], body["stream_options"] = true, map[string]bool{"include_usage": true}
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// ask sends a small chat to a pool.
func (s *steered) ask(t *testing.T, pool string, headers ...string) answer {
	t.Helper()
	return do(t, http.DefaultClient, request(t, s.Gateway, "POST", "/v1/chat/completions", "openai", question(pool, "Hello", 1, false), headers...))
}

// got is how many chats each server of a pool has received so far.
func (s *steered) got(pool string) (out []int) {
	for _, server := range s.pools[pool].Servers {
		out = append(out, int(server.Stats().Requests))
	}
	return out
}

// spread sends n small chats one after the other, all of which must succeed, and says how many each server got.
func (s *steered) spread(t *testing.T, pool string, n int) []int {
	t.Helper()
	before := s.got(pool)
	for range n {
		if a := s.ask(t, pool); a.status != http.StatusOK {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
	}
	after := s.got(pool)
	for i := range after {
		after[i] -= before[i]
	}
	return after
}

// atOnce sends n chats at the same time, and gives the statuses by how many had them.
func (s *steered) atOnce(t *testing.T, n int, body string, headers ...string) <-chan map[int]int {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range n {
		req := request(t, s.Gateway, "POST", "/v1/chat/completions", "openai", body, headers...)
		wg.Go(func() {
			status := 0
			if resp, err := http.DefaultClient.Do(req); err == nil {
				if _, err = io.Copy(io.Discard, resp.Body); err == nil {
					status = resp.StatusCode
				}
				resp.Body.Close()
			}
			mu.Lock()
			statuses[status]++
			mu.Unlock()
		})
	}
	out := make(chan map[int]int, 1)
	go func() { wg.Wait(); out <- statuses }()
	return out
}

// steeringState is what /api/backends answers.
type steeringState struct {
	Update, Applied uint64
	Refused         string
	Backends        []steeredBackend
	Routes          []struct {
		Route    string
		Backends []string
		Weights  []uint32
	}
}

type steeredBackend struct {
	Backend          string
	Share            float64
	Usable           bool
	Picking          string
	RequestsInFlight int
	RequestsWaiting  int
	Refused          uint64
	Prompt           uint64 `json:"promptTokens"`
	Cached           uint64 `json:"promptTokensExpectedCached"`
	Endpoints        []steeredEndpoint
}

type steeredEndpoint struct {
	Endpoint        string
	Weight          uint32
	PublishedWeight uint32
	Status          string
	Why             string
	Reasons         []steeredReason
	Signals         []struct {
		Source string
		Age    *float64 `json:"ageSeconds"`
		Error  string
		Values map[string]float64
	}
	Breaker            string
	FailedHealthChecks int
	TTFT               float64 `json:"timeToFirstTokenSeconds"`
	ErrorRate          *float64
	RequestsInFlight   int
	TokensInFlight     int
	Picked             uint64
}

type steeredReason struct {
	Rule                string
	Factor, Value, Line float64
	Text                string
}

// signal is the newest value of a metric from a source.
func (e steeredEndpoint) signal(source, metric string) (float64, bool) {
	for _, s := range e.Signals {
		if v, ok := s.Values[metric]; ok && s.Source == source {
			return v, true
		}
	}
	return 0, false
}

// reason is the part of the story that a rule has.
func (e steeredEndpoint) reason(rule string) (steeredReason, bool) {
	for _, r := range e.Reasons {
		if r.Rule == rule {
			return r, true
		}
	}
	return steeredReason{}, false
}

// steering asks weir what it does now.
func (s *steered) steering(t *testing.T) (out steeringState) {
	t.Helper()
	adminJSON(t, s.Gateway, "/api/backends", &out)
	return out
}

// backend is what weir says of a pool; its endpoints are in the order of the servers.
func (s *steered) backend(t *testing.T, pool string) steeredBackend {
	t.Helper()
	for _, b := range s.steering(t).Backends {
		if b.Backend == "default/"+pool {
			return b
		}
	}
	t.Fatalf("/api/backends does not know %s", pool)
	return steeredBackend{}
}

// endpoint is what weir says of one server of a pool.
func (s *steered) endpoint(t *testing.T, pool string, server int) steeredEndpoint {
	t.Helper()
	return s.backend(t, pool).Endpoints[server]
}

// await waits until one server of a pool is as it should be, and Envoy has taken what follows.
func (s *steered) await(t *testing.T, pool string, server int, what string, is func(*steeredEndpoint) bool) (e steeredEndpoint) {
	t.Helper()
	reached := false
	defer func() {
		if !reached {
			t.Logf("server %d of %s is %s, with the weight %d in Envoy: %q", server, pool, e.Status, e.PublishedWeight, e.Why)
		}
	}()
	s.WaitFor(what, func() bool {
		state := s.steering(t)
		for _, b := range state.Backends {
			if b.Backend == "default/"+pool {
				e = b.Endpoints[server]
			}
		}
		return is(&e) && state.Applied == state.Update
	})
	reached = true
	return e
}

// awaitWeight waits until Envoy has a weight of one server, by weir's account.
func (s *steered) awaitWeight(t *testing.T, pool string, server int, weight uint32) steeredEndpoint {
	t.Helper()
	return s.await(t, pool, server, fmt.Sprintf("server %d of %s has the weight %d", server, pool, weight), func(e *steeredEndpoint) bool {
		return e.Weight == weight && e.PublishedWeight == weight
	})
}

// assigned is what Envoy's own dump says of the servers of a pool: their weights, 0 where it counts one as not healthy.
func (s *steered) assigned(t *testing.T, pool string) (out []uint32) {
	t.Helper()
	var dump struct {
		Configs []struct {
			Config struct {
				Name      string `json:"cluster_name"`
				Endpoints []struct {
					List []struct {
						Endpoint struct {
							Address struct {
								Socket struct {
									Address string
									Port    int `json:"port_value"`
								} `json:"socket_address"`
							}
						}
						Health string `json:"health_status"`
						Weight uint32 `json:"load_balancing_weight"`
					} `json:"lb_endpoints"`
				}
			} `json:"endpoint_config"`
		}
	}
	if err := json.Unmarshal(s.Envoy("/config_dump?include_eds&resource=dynamic_endpoint_configs"), &dump); err != nil {
		t.Fatalf("Envoy's /config_dump: %v", err)
	}
	weights := map[string]uint32{}
	for _, c := range dump.Configs {
		for _, group := range c.Config.Endpoints {
			for _, e := range group.List {
				at := e.Endpoint.Address.Socket
				key := net.JoinHostPort(at.Address, strconv.Itoa(at.Port))
				if weights[key] = e.Weight; e.Health != "HEALTHY" {
					weights[key] = 0
				}
			}
		}
	}
	for _, server := range s.pools[pool].Servers {
		w, ok := weights[server.Addr()]
		if !ok {
			t.Fatalf("Envoy does not know the server %s: it has %v", server.Addr(), weights)
		}
		out = append(out, w)
	}
	return out
}
