package compile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/extproc/session"
)

// conversing is a folder with a SessionPolicy.
func conversing(gateway, rest string) string {
	d := docGateway
	if gateway != "" {
		d = doc("LLMGateway", "main", "{listeners: [{name: http, address: 127.0.0.1, port: 8080}], "+gateway+"}")
	}
	return d + docServed + doc("SessionPolicy", "s", "{targetRefs: [{kind: Route, name: all}]"+rest+"}")
}

// theSession is the one SessionPolicy of a version.
func theSession(t *testing.T, v *Version) *session.Policy {
	t.Helper()
	var got []*session.Policy
	for k := range v.Table.Sessions.Each {
		got = append(got, k.Policy)
	}
	if len(got) != 1 {
		t.Fatalf("%d policies", len(got))
	}
	return got[0]
}

func TestSessionPolicyDefaults(t *testing.T) {
	p := theSession(t, problemCase{documents: conversing("", "")}.run(t))
	got := fmt.Sprint(p.ID, p.Headers, p.PerTenant, p.HistoryTurns, p.HistoryTokens, p.KeepTurns, p.KeepBytes, p.Idle, p.Absolute, p.Redis, p.MemoryBytes, len(p.Keys), p.Deny, p.Sticky)
	want := fmt.Sprint("default/s", []string{"x-weir-session"}, false, 3, 0, 100, 1<<20, 24*time.Hour, 720*time.Hour, false, 64<<20, 0, false, true)
	if got != want || p.Summary != nil || p.Extraction != nil || p.Machine != nil || p.Rules != nil {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSessionPolicy(t *testing.T) {
	p := theSession(t, problemCase{documents: conversing(docShared, `, headers: [X-Conversation, x-weir-session], scope: Tenant, history: {turns: 0, maxTokens: 5},
		keep: {turns: 7, bytes: 8Ki, idleTimeout: 1h, absoluteTimeout: 2h}, store: {memoryBytes: 2Mi, onFailure: Deny, encryptionKeys: [{secretRef: {env: SESSION_KEY}}]}, sticky: false,
		summary: {model: cheap, afterTokens: 200, keepTurns: 2, maxTokens: 20, instructions: Sum., timeout: 2s},
		extraction: {model: cheap, when: Before, slots: [{name: city}, {name: count, type: integer, description: d}], intents: [{name: buy}], entities: [{name: who, description: w}]},
		rules: [{name: a, pattern: '(?P<order>[0-9]+)'}, {name: b, from: Assistant, slot: x, expression: 'size(text)'}],
		stateMachine: {initial: a, states: [{name: a, instructions: I}, {name: b, timeout: 5s, onTimeout: a, onEnter: [bell]}],
			events: [{name: go, pattern: go}], transitions: [{from: [a], to: b, event: go, guard: 'text != "no"'}]}`)}.run(t))
	got := fmt.Sprint(p.Headers, p.PerTenant, p.HistoryTurns, p.HistoryTokens, p.KeepTurns, p.KeepBytes, p.Idle, p.Absolute, p.Redis, p.MemoryBytes, len(p.Keys), p.Deny, p.Sticky, *p.Summary, *p.Extraction, len(p.Rules), len(p.Machine.States))
	want := fmt.Sprint([]string{"x-conversation", "x-weir-session"}, true, 0, 5, 7, 8<<10, time.Hour, 2*time.Hour, true, 2<<20, 1, true, false,
		session.SummaryPolicy{Model: "cheap", AfterTokens: 200, KeepTurns: 2, MaxTokens: 20, Instructions: "Sum.", Timeout: 2 * time.Second},
		session.Extraction{
			Model: "cheap", Before: true, MaxTokens: 512, Timeout: 5 * time.Second,
			Slots:   []session.Term{{Name: "city", Type: session.TypeString}, {Name: "count", Type: session.TypeInteger, Description: "d"}},
			Intents: []session.Term{{Name: "buy"}}, Entities: []session.Term{{Name: "who", Description: "w"}},
		}, 2, 2)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if r := p.Rules[1]; r.From != session.Assistant || r.Slot != "x" || r.Expression == nil || p.Rules[0].Pattern == nil {
		t.Errorf("%+v", r)
	}
	if s := p.Machine.States["b"]; s.Timeout != 5*time.Second || s.OnTimeout != "a" || s.OnEnter[0] != "bell" || p.Machine.Transitions[0].Guard == nil || p.Machine.Events[0].Name != "go" {
		t.Errorf("%+v", s)
	}
}

func TestSessionPolicyProblems(t *testing.T) {
	const at = "SessionPolicy default/s "
	for _, c := range []struct {
		name, rest string
		want       []string
	}{
		{"headers", ", headers: [x-a, X-A, cookie, x-weir-cache]", []string{
			at + "spec.headers[1]: the header x-a is named twice",
			at + "spec.headers[2]: the header cookie holds a credential, which is no name of a session",
			at + "spec.headers[3]: the header x-weir-cache is taken off requests at the door; only x-weir-session of this kind may be a caller's",
		}},
		{"bytes", ", keep: {bytes: 1Ki}, store: {memoryBytes: 1Ki}", []string{
			at + "spec.keep.bytes: 1Ki is not from 4Ki to 64Mi", at + "spec.store.memoryBytes: 1Ki is not from 1Mi to 64Gi",
		}},
		{"no Redis", ", store: {type: Redis}", []string{at + "spec.store.type: no LLMGateway has sharedState, so there is no Redis: give it one, or set the type to Auto or Memory"}},
		{"keys", ", store: {encryptionKeys: [{secretRef: {env: SHORT_SECRET}}, {secretRef: {env: SESSION_KEY}}, {secretRef: {env: SESSION_KEY}}]}", []string{
			at + "spec.store.encryptionKeys[0].secretRef: the key is not 32 bytes in base64 or hex: make one with `openssl rand -base64 32`",
			at + "spec.store.encryptionKeys[2].secretRef: it is the same key as one before it",
		}},
		{"rules", ", rules: [{name: a, pattern: '('}, {name: b, pattern: 'x'}, {name: c, slot: s, expression: 'nothing'}, {name: d, intent: i, expression: 'size(text)'}]", []string{
			at + "spec.rules[0].pattern: the regular expression does not compile: error parsing regexp: missing closing ): `(`",
			at + "spec.rules[1].pattern: it finds nothing: give a named group such as (?P<order>[0-9]+), or a slot, an entity or an intent",
			at + "spec.rules[2].expression: the expression does not compile: ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '') | nothing | ^",
			at + "spec.rules[3].expression: the expression gives a value of the type int, and must say true or false",
		}},
		{"extraction", ", extraction: {model: m, slots: [{name: a, type: number, values: [x]}]}", []string{
			at + "spec.extraction.slots[0].values: values are for slots of the type string, and this one is of the type number",
		}},
		{"machine", ", stateMachine: {initial: a, states: [{name: a, timeout: 5s, onTimeout: x}], transitions: [{to: b, event: go, guard: '1'}]}", []string{
			at + "spec.stateMachine.states[0].onTimeout: there is no state x",
			at + "spec.stateMachine.transitions[0].event: there is no event go: declare it in events, or use a built-in one",
			at + "spec.stateMachine.transitions[0].guard: the expression gives a value of the type int, and must say true or false",
			at + "spec.stateMachine.transitions[0].to: there is no state b",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, problems := Compile(load(t, conversing("", c.rest)), options(t))
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s %s %s: %s", p.Object.Kind, p.Object.Namespace+"/"+p.Object.Name, p.Field, p.Message))
			}
			if v != nil || strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if strings.Contains(strings.Join(got, ""), marker) {
				t.Error("a problem shows a secret")
			}
		})
	}
	for _, c := range []struct{ rest, want string }{
		{", history: {turns: 9}, keep: {turns: 5}", "9 turns are added"},
		{", keep: {turns: 5}, summary: {model: m, keepTurns: 5}", "forgotten before they are summed up"},
		{", stateMachine: {initial: a, states: [{name: a}, {name: b}], transitions: [{to: a, event: confirm}]}", "nothing leads to the state b"},
	} {
		v, problems := Compile(load(t, conversing("", c.rest)), options(t))
		if v == nil || len(problems) != 1 || !strings.Contains(problems[0].Message, c.want) {
			t.Errorf("%s: %v", c.rest, problems)
		}
	}
}
