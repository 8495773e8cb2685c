package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/adapters/anthropic"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/openai"
	"github.com/weir-dev/weir/internal/redisconn"
	"github.com/weir-dev/weir/test/redistest"
)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// text is a buffer that many may write to.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// rig is a Manager in a test.
type rig struct {
	*Manager
	t        testing.TB
	clock    *clock
	log      *text
	registry *prometheus.Registry
}

// newRig makes a Manager; redis is nil for memory alone.
func newRig(t testing.TB, place Place, policies ...*Policy) *rig {
	t.Helper()
	r := &rig{t: t, clock: newClock(), log: &text{}, registry: prometheus.NewRegistry()}
	m, err := New(Options{Now: r.clock.Now, Log: slog.New(slog.NewTextHandler(r.log, nil)), Place: place, Metrics: r.registry})
	if err != nil {
		t.Fatal(err)
	}
	r.Manager = m
	m.Use(policies)
	t.Cleanup(m.Close)
	return r
}

// redisPlace starts a Redis of the test's own.
func redisPlace(t testing.TB) (*redistest.Server, Place) {
	t.Helper()
	s := redistest.Start(t)
	return s, connect(t, s.Addr, 20*time.Second) // for a busy machine
}

func connect(t testing.TB, addr string, timeout time.Duration) Place {
	t.Helper()
	conn, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}, Timeout: timeout}, redisconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func() (*redisconn.Conn, string) { return conn, "weir-test" }
}

// policyOf is a policy as the defaults of the API make it.
func policyOf(change ...func(*Policy)) *Policy {
	p := &Policy{
		ID: "default/chat", Headers: []string{DefaultHeader}, HistoryTurns: 3, KeepTurns: 100, KeepBytes: 1 << 20,
		Idle: 24 * time.Hour, Absolute: 720 * time.Hour, MemoryBytes: 64 << 20, Sticky: true,
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func inRedisToo(p *Policy) { p.Redis = true }

func mustKey(t testing.TB, b byte) *Key {
	t.Helper()
	k, err := NewKey(strings.Repeat(fmt.Sprintf("%02x", b), keyLen))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encrypted(keys ...*Key) func(*Policy) {
	return func(p *Policy) { p.Keys = keys }
}

func with(t testing.TB, states ...*State) func(*Policy) {
	return func(p *Policy) {
		m, problems := NewMachine("", nil, nil, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		p.Machine = m
	}
}

func dialect(name string) *canon.Dialect {
	d := openai.Dialect()
	if name == "anthropic" {
		d = anthropic.Dialect()
	}
	return &d
}

var ana = Address{"acme", "acme/ana", "s-1"}

// begin begins a turn with a body.
func (r *rig) begin(p *Policy, a Address, dialectName, body string, change ...func(*Call)) *Turn {
	r.t.Helper()
	c := Call{Address: a, Dialect: dialect(dialectName), Body: []byte(body), Headers: http.Header{}}
	for _, f := range change {
		f(&c)
	}
	turn, err := r.Begin(context.Background(), p, c)
	if err != nil {
		r.t.Fatalf("Begin: %v", err)
	}
	return turn
}

// say has a user say something and a model answer it. It gives what was sent on.
func (r *rig) say(p *Policy, a Address, user, answer string, change ...func(*Call)) string {
	r.t.Helper()
	turn := r.begin(p, a, "openai", chat(user), change...)
	body := string(turn.Body())
	if err := turn.Commit(context.Background(), answered2(answer)); err != nil {
		r.t.Fatalf("Commit: %v", err)
	}
	return body
}

func chat(user string) string {
	b, _ := json.Marshal(user)
	return `{"model":"gpt","messages":[{"role":"user","content":` + string(b) + `}]}`
}

func answered2(text string) *canon.Response {
	return &canon.Response{Parts: []canon.Part{{Text: text}}, Finish: canon.FinishStop}
}

func calling(id, name, arguments string) *canon.Response {
	return &canon.Response{Parts: []canon.Part{{Kind: canon.PartToolCall, Call: &canon.ToolCall{ID: id, Name: name, Arguments: arguments}}}, Finish: canon.FinishToolCalls}
}

func (r *rig) get(p *Policy, a Address) *Session {
	r.t.Helper()
	s, err := r.Load(context.Background(), p, a)
	if err != nil {
		r.t.Fatalf("Load: %v", err)
	}
	return s
}

// texts of a conversation, as "role: text".
func texts(t testing.TB, body string) (out []string) {
	t.Helper()
	var b struct {
		Messages []struct {
			Role       string `json:"role"`
			Content    any    `json:"content"`
			ToolCallID string `json:"tool_call_id"`
			ToolCalls  []struct {
				ID string `json:"id"`
			} `json:"tool_calls"`
		} `json:"messages"`
	}
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	for _, m := range b.Messages {
		line := m.Role + ":"
		switch c := m.Content.(type) {
		case string:
			line += " " + c
		case []any:
			for _, block := range c {
				o := block.(map[string]any)
				switch o["type"] {
				case "text":
					line += " " + o["text"].(string)
				case "tool_use":
					line += " calls " + o["id"].(string)
				case "tool_result":
					line += " result " + o["tool_use_id"].(string)
				default:
					line += fmt.Sprint(" ", o["type"])
				}
			}
		}
		for _, c := range m.ToolCalls {
			line += " calls " + c.ID
		}
		if m.ToolCallID != "" {
			line += " result " + m.ToolCallID
		}
		out = append(out, line)
	}
	return out
}

func same(t testing.TB, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// count is the sum of a counter over its labels that hold all of want (name=value).
func (r *rig) count(name string, want ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			for _, w := range want {
				if !have[w] {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// scripted is a Caller that a test plays.
type scripted func(Ask) (*canon.Response, error)

func (s scripted) Call(_ context.Context, a Ask) (*canon.Response, error) { return s(a) }

var errDown = errors.New("the model is down")
