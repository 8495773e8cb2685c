package relay

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/session"
	sessionresponses "github.com/weir-dev/weir/extproc/session/responses"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/internal/redisconn"
)

// TestSessionState: who names a session learns how it stood, also where that is why the request is refused. On the Responses API the header
// names none, and nothing is said of it.
func TestSessionState(t *testing.T) {
	r := newRig(t, plainly)
	sessions, err := session.New(session.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler), Place: func() (*redisconn.Conn, string) { return nil, "" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sessions.Close)
	own := &session.Policy{ID: "default/own", Headers: []string{session.DefaultHeader}, HistoryTurns: 3, KeepTurns: 10, KeepBytes: 1 << 20, MemoryBytes: 1 << 20, Idle: time.Hour, Absolute: time.Hour}
	open := *own
	open.ID, open.Redis = "default/open", true // which is away
	deny := open
	deny.ID, deny.Deny = "default/deny", true
	sessions.Use([]*session.Policy{own, &open, &deny})
	r.server.opts.Sessions = sessions
	r.server.opts.Responses = sessionresponses.New(sessions, time.Now, rand.Reader, func(error) {})

	ask := func(p *session.Policy, responses bool, body, name string) (*http.Response, string) {
		t.Helper()
		path := "/v1/chat/completions"
		f := r.flight(nil, func(f *Flight) {
			f.Session = &table.Kept[table.SessionPolicy]{Name: p.ID, Policy: p}
			if responses {
				path = "/v1/responses"
				f.Endpoint = &canon.Endpoint{Op: canon.OpResponses, Method: "POST", Path: "/responses"}
			}
		})
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://relay"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("content-type", "application/json")
		req.Header.Set(wire.FlightHeader, f.ID)
		if name != "" {
			req.Header.Set(wire.SessionHeader, name)
		}
		resp, err := r.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(answer)
	}
	for _, c := range []struct {
		what        string
		policy      *session.Policy
		name, state string
		status      int
		code        string
	}{
		{"first", own, "s", "new", 200, ""},
		{"second", own, "s", "ok", 200, ""},
		{"no name", own, "", "", 200, ""},
		{"no name at all", own, strings.Repeat("x", 300), "", 400, "invalid_session"},
		{"lost", &open, "s", "lost", 200, ""},
		{"denied", &deny, "s", "lost", 503, "session_unavailable"},
	} {
		resp, body := ask(c.policy, false, plainAsk, c.name)
		if got := strings.Join(resp.Header.Values(wire.SessionStateHeader), ","); resp.StatusCode != c.status || got != c.state || !strings.Contains(body, c.code) {
			t.Errorf("%s: %d, the state is %q: %s", c.what, resp.StatusCode, got, body)
		}
	}
	previous := ""
	for _, name := range []string{"", "s", "another"} {
		text := `{"model":"m","input":"Hello"` + previous + `}`
		resp, body := ask(own, true, text, name)
		var answer struct{ ID string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != 200 || answer.ID == "" {
			t.Fatalf("%s: %d %s", text, resp.StatusCode, body)
		}
		if said := resp.Header.Values(wire.SessionStateHeader); len(said) > 0 {
			t.Errorf("%s with the header %q: a state is told: %q", text, name, said)
		}
		previous = `,"previous_response_id":"` + answer.ID + `"`
	}
}
