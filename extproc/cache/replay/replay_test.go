package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/adapters"
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/sse"
	"github.com/weir-dev/weir/extproc/cache"
	"github.com/weir-dev/weir/extproc/cache/replay"
)

const folder = "../../../adapters/testdata/"

// reply and stored are what the adapters' own goldens were made with.
var (
	reply  = canon.Reply{Model: "asked-for", ID: "0123456789", Created: 1, IncludeUsage: true}
	stored = time.Unix(1700000001, 0)
)

func catalog(t testing.TB) *adapters.Set {
	t.Helper()
	s, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dialect(t testing.TB, s *adapters.Set, name string) *canon.Dialect {
	t.Helper()
	d, ok := s.Get(name)
	if !ok {
		t.Fatalf("there is no dialect %q", name)
	}
	return &d
}

// entries gives the adapters' recorded answers and streams.
func entries(t testing.TB) map[string]*cache.Entry {
	t.Helper()
	list := map[string]*cache.Entry{}
	for kind, pattern := range map[string]string{"streams": "streams/*.sse", "answers": "answers/*.json"} {
		files, err := filepath.Glob(folder + pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, file := range files {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			base := strings.TrimSuffix(file, filepath.Ext(file))
			e := &cache.Entry{Head: cache.Head{
				Status: 200, Operation: canon.OpChat, Dialect: strings.TrimPrefix(filepath.Ext(base), "."), Stream: kind == "streams",
			}, Body: body, Stored: stored}
			e.Header = [][2]string{{"content-type", "application/json"}}
			if e.Stream {
				e.Header[0][1] = "text/event-stream"
			}
			list[strings.TrimPrefix(base, folder)] = e
		}
	}
	return list
}

// source gives an entry in pieces.
type source struct {
	head cache.Head
	body []byte
	size int
	err  error // at the end; io.EOF where it is whole
}

func (s *source) Head(context.Context) (cache.Head, error) { return s.head, nil }

func (s *source) Read(_ context.Context, p []byte) (int, error) {
	if len(s.body) == 0 {
		return 0, s.err
	}
	n := copy(p[:min(len(p), s.size)], s.body)
	s.body = s.body[n:]
	return n, nil
}

// sink is a caller who writes down what comes.
type sink struct {
	begun  int
	status int
	header [][2]string
	body   bytes.Buffer
	writes int
}

func (s *sink) Begin(status int, header [][2]string) error {
	s.begun, s.status, s.header = s.begun+1, status, header
	return nil
}

func (s *sink) Write(p []byte) (int, error) { s.writes++; return s.body.Write(p) }

func header(list [][2]string, name string) string {
	h := cache.Head{Header: list}
	return h.Get(name)
}

// says is all that an answer says, read by its own dialect: what must not depend on who it is told to.
func says(t *testing.T, p *replay.Player, h cache.Head, body []byte, signed string) string {
	t.Helper()
	r, err := p.Read(&h, body)
	if err != nil {
		return "error " + string(err.Kind)
	}
	var text, reasoning string
	var tools []string
	for _, part := range r.Parts {
		switch part.Kind {
		case canon.PartText, canon.PartRefusal:
			text += part.Text
		case canon.PartReasoning:
			if signed == "" || part.Origin == signed {
				reasoning += part.Text
			}
		case canon.PartToolCall:
			var args any
			if e := json.Unmarshal([]byte(part.Call.Arguments), &args); e != nil {
				t.Errorf("the arguments of a call are no JSON: %v", e)
			}
			tools = append(tools, fmt.Sprint(part.Call.ID, part.Call.Name, args))
		}
	}
	return fmt.Sprintf("text %q reasoning %q tools %q finish %s", text, reasoning, tools, r.Finish)
}

// TestEveryPair tells every recorded answer to callers of every dialect, as a stream and whole, kept and live, cut anywhere.
func TestEveryPair(t *testing.T) {
	set := catalog(t)
	p := replay.New(set)
	for name, e := range entries(t) {
		for _, to := range []string{"openai", "anthropic"} {
			for _, stream := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s to %s, stream %v", name, to, stream), func(t *testing.T) {
					caller := replay.To{Dialect: dialect(t, set, to), Stream: stream, Reply: reply, RequestID: "r"}
					caller.Reply.Created = stored.Unix()
					a, err := p.Whole(e, caller)
					for _, size := range []int{1, 3, 17, 64, 1 << 20} {
						var s sink
						liveErr := p.Live(t.Context(), &source{e.Head, e.Body, size, io.EOF}, caller, &s)
						if (err == nil) != (liveErr == nil) || err == nil && (s.begun != 1 || s.status != a.Status || s.body.String() != string(a.Body)) {
							t.Fatalf("in pieces of %d it is %d %q, %v; kept it is %d %q, %v", size, s.status, s.body.String(), liveErr, a.Status, a.Body, err)
						}
						if liveErr != nil && (s.begun != 0 || !errors.Is(liveErr, replay.ErrUnreadable)) {
							t.Fatalf("begun %d times, then %v", s.begun, liveErr)
						}
					}
					same := e.Dialect == to && e.Stream == stream
					cut := strings.Contains(name, "/cut.")
					if cut && !stream {
						if err == nil || !errors.Is(err, replay.ErrUnreadable) {
							t.Fatalf("half an answer is told as a whole one: %s, %v", a.Body, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if same && &a.Body[0] != &e.Body[0] {
						t.Error("the same bytes were copied")
					}
					if got, want := replay.IsStream(a.Status, a.Header), stream && a.Status == 200; got != want {
						t.Errorf("content-type %s of status %d", header(a.Header, "content-type"), a.Status)
					}
					golden := folder + strings.TrimSuffix(name, filepath.Ext(name)) + "." + e.Dialect + "-" + to + ".txt"
					if !same && e.Stream == stream {
						want, err := os.ReadFile(golden)
						if err != nil {
							t.Fatal(err)
						}
						got := a.Body
						if !stream { // the goldens of answers are indented
							var b bytes.Buffer
							if err := json.Indent(&b, a.Body, "", "  "); err != nil {
								t.Fatal(err)
							}
							got = b.Bytes()
						}
						if strings.TrimSpace(string(got)) != strings.TrimSpace(string(want)) {
							t.Errorf("told as\n%s\nthe adapters' way is\n%s", got, want)
						}
					}
					if a.Status != 200 {
						if !strings.Contains(name, "/error.") {
							t.Errorf("status %d: %s", a.Status, a.Body)
						}
						return
					}
					signed := ""
					if to == "anthropic" && !same {
						signed = "anthropic"
					}
					head := cache.Head{Status: 200, Dialect: to, Operation: canon.OpChat, Stream: stream}
					if got, want := says(t, p, head, a.Body, ""), says(t, p, e.Head, e.Body, signed); got != want && !cut && !(strings.HasPrefix(got, "error") && strings.HasPrefix(want, "error")) {
						t.Errorf("the caller reads\n%s\nwhat was bought says\n%s", got, want)
					}
				})
			}
		}
	}
}

// TestErrors: refusals that are kept are told in the caller's dialect, with their status, whatever mode was asked for.
func TestErrors(t *testing.T) {
	set := catalog(t)
	p := replay.New(set)
	for _, tt := range []struct {
		dialect, body string
		status        int
	}{
		{"openai", `{"error":{"message":"No such model.","type":"invalid_request_error","param":"model","code":"model_not_found"}}`, 404},
		{"anthropic", `{"type":"error","error":{"type":"not_found_error","message":"No such model."}}`, 404},
		{"openai", `{"error":{"message":"No such model.","type":"invalid_request_error","param":null,"code":null}}`, 400},
		{"anthropic", `{"type":"error","error":{"type":"request_too_large","message":"No such model."}}`, 413},
	} {
		for _, to := range []string{"openai", "anthropic"} {
			for _, stream := range []bool{true, false} {
				e := &cache.Entry{Head: cache.Head{Status: tt.status, Dialect: tt.dialect, Operation: canon.OpChat, Stream: !stream,
					Header: [][2]string{{"content-type", "application/json"}, {"retry-after", "7"}, {"x-other", "1"}}}, Body: []byte(tt.body), Stored: stored}
				a, err := p.Whole(e, replay.To{Dialect: dialect(t, set, to), Stream: stream, Reply: reply, RequestID: "req-9"})
				if err != nil {
					t.Fatal(err)
				}
				var got struct {
					Type  string
					Error struct{ Message string }
				}
				if err := json.Unmarshal(a.Body, &got); err != nil || got.Error.Message != "No such model." || (got.Type == "error") != (to == "anthropic") {
					t.Errorf("%s %d to %s: %s (%v)", tt.dialect, tt.status, to, a.Body, err)
				}
				if a.Status != tt.status || header(a.Header, "content-type") != "application/json" || header(a.Header, "retry-after") != "7" {
					t.Errorf("%s %d to %s: status %d, headers %v", tt.dialect, tt.status, to, a.Status, a.Header)
				}
				if to == tt.dialect && string(a.Body) != tt.body {
					t.Errorf("the same dialect gets other bytes: %s", a.Body)
				}
			}
		}
	}
}

// TestErrorOfCredential: what a provider says of the gateway's key, of which it may quote a part, is nobody's in another dialect.
func TestErrorOfCredential(t *testing.T) {
	set := catalog(t)
	for from, body := range map[string]string{
		"openai":    `{"error":{"message":"Incorrect API key provided: sk-ab***yz.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`,
		"anthropic": `{"type":"error","error":{"type":"authentication_error","message":"Incorrect API key provided: sk-ab***yz."}}`,
	} {
		to := map[string]string{"openai": "anthropic", "anthropic": "openai"}[from]
		e := &cache.Entry{Head: cache.Head{Status: 401, Dialect: from, Operation: canon.OpChat, Header: [][2]string{{"content-type", "application/json"}}},
			Body: []byte(body), Stored: stored}
		a, err := replay.New(set).Whole(e, replay.To{Dialect: dialect(t, set, to), Reply: reply, RequestID: "req-9"})
		if err != nil || a.Status != 401 || !strings.Contains(string(a.Body), canon.BackendCredential) || strings.Contains(string(a.Body), "sk-ab") {
			t.Errorf("%s to %s: %d %s (%v)", from, to, a.Status, a.Body, err)
		}
	}
}

func TestIdentity(t *testing.T) {
	set := catalog(t)
	p := replay.New(set)
	list := entries(t)
	for _, name := range []string{"streams/text.anthropic", "answers/text.anthropic"} {
		e := *list[name]
		for _, stream := range []bool{true, false} {
			a, err := p.Whole(&e, replay.To{Dialect: dialect(t, set, "openai"), Stream: stream, Reply: reply})
			if err != nil {
				t.Fatal(err)
			}
			original, _ := p.Read(&e.Head, e.Body)
			for _, want := range []string{`"model":"asked-for"`, `"created":1700000001`, `"id":"` + original.ID + `"`} {
				if !bytes.Contains(a.Body, []byte(want)) {
					t.Errorf("%s, stream %v: no %s in %s", name, stream, want, a.Body)
				}
			}
		}
		e.Stored = time.Time{}
		a, err := p.Whole(&e, replay.To{Dialect: dialect(t, set, "openai"), Reply: reply})
		if err != nil || !bytes.Contains(a.Body, []byte(`"created":1,`)) {
			t.Errorf("not stored yet: %s, %v", a.Body, err)
		}
	}
}

func TestUnplayable(t *testing.T) {
	set := catalog(t)
	p := replay.New(set)
	e := &cache.Entry{Head: cache.Head{Status: 200, Dialect: "openai", Operation: canon.OpEmbeddings}, Body: []byte(`{"data":[]}`)}
	to := replay.To{Dialect: dialect(t, set, "anthropic"), Reply: reply}
	if _, err := p.Whole(e, to); !errors.Is(err, replay.ErrUnplayable) || p.Plays(&e.Head, &to) {
		t.Errorf("embeddings in another dialect: %v", err)
	}
	var s sink
	if err := p.Live(t.Context(), &source{e.Head, e.Body, 9, io.EOF}, to, &s); !errors.Is(err, replay.ErrUnplayable) || s.begun != 0 {
		t.Errorf("live: %v, begun %d times", err, s.begun)
	}
	to.Dialect = dialect(t, set, "openai")
	if a, err := p.Whole(e, to); err != nil || string(a.Body) != string(e.Body) || !p.Plays(&e.Head, &to) {
		t.Errorf("embeddings in their own dialect: %s, %v", a.Body, err)
	}
	other := &cache.Entry{Head: cache.Head{Status: 200, Dialect: "klingon", Operation: canon.OpChat}, Body: []byte(`{}`)}
	if _, err := p.Whole(other, to); !errors.Is(err, replay.ErrUnplayable) {
		t.Errorf("an unknown dialect: %v", err)
	}
	if _, err := p.Read(&other.Head, other.Body); err == nil {
		t.Error("an unknown dialect is read")
	}
	rubbish := &cache.Entry{Head: cache.Head{Status: 200, Dialect: "anthropic", Operation: canon.OpChat}, Body: []byte(`<html>`)}
	if _, err := p.Whole(rubbish, to); !errors.Is(err, replay.ErrUnreadable) {
		t.Errorf("rubbish: %v", err)
	}
}

// events splits a stream for comparison.
func events(stream []byte) (list []string, partial bool) {
	var r sse.Reader
	r.Feed(stream, func(ev sse.Event) { list = append(list, string(ev.Name)+" "+string(ev.Data)) })
	return list, r.Partial()
}

// TestBroken: a source that breaks anywhere never looks whole, and the caller is told in the stream wherever that can be done.
func TestBroken(t *testing.T) {
	set := catalog(t)
	p := replay.New(set)
	failure := errors.New("the fill failed")
	for name, e := range entries(t) {
		if strings.Contains(name, "/cut.") || strings.Contains(name, "/error.") {
			continue
		}
		for _, to := range []string{"openai", "anthropic"} {
			for _, stream := range []bool{true, false} {
				for at := 0; at < len(e.Body); at += 1 + len(e.Body)/97 {
					caller := replay.To{Dialect: dialect(t, set, to), Stream: stream, Reply: reply}
					caller.Reply.IncludeUsage = at%2 == 0
					var s sink
					err := p.Live(t.Context(), &source{e.Head, e.Body[:at], 40, failure}, caller, &s)
					var broken *replay.Broken
					if !errors.As(err, &broken) || !errors.Is(err, failure) {
						t.Fatalf("%s: %v", name, err)
					}
					switch {
					case broken.Told:
						list, partial := events(s.body.Bytes())
						if partial || len(list) == 0 {
							t.Fatalf("%s to %s at %d: told in half an event: %q", name, to, at, s.body.String())
						}
						ended := strings.Contains(list[len(list)-1], "[DONE]") || strings.Contains(list[len(list)-1], "message_stop")
						if !ended && !strings.Contains(list[len(list)-1], "broke off") {
							t.Fatalf("%s to %s at %d: the last event is %s", name, to, at, list[len(list)-1])
						}
					case stream && e.Stream && e.Dialect != to:
						t.Fatalf("%s to %s at %d: a translated stream does not tell that it broke", name, to, at)
					case s.begun > 0 && !(e.Dialect == to && e.Stream == stream):
						t.Fatalf("%s to %s at %d: an answer that must be whole was begun", name, to, at)
					}
				}
			}
		}
	}
}

// TestHeadBreaks: nothing is sent before the first is known.
func TestHeadBreaks(t *testing.T) {
	set := catalog(t)
	var s sink
	failure := errors.New("no head")
	err := replay.New(set).Live(t.Context(), headless{failure}, replay.To{Dialect: dialect(t, set, "openai"), Reply: reply}, &s)
	if !errors.Is(err, failure) || s.begun != 0 {
		t.Errorf("%v, begun %d times", err, s.begun)
	}
}

type headless struct{ err error }

func (h headless) Head(context.Context) (cache.Head, error)  { return cache.Head{}, h.err }
func (h headless) Read(context.Context, []byte) (int, error) { return 0, h.err }
