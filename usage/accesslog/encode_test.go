package accesslog_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/internal/trace"
	"github.com/weir-dev/weir/usage"
	"github.com/weir-dev/weir/usage/accesslog"
	"github.com/weir-dev/weir/usage/ledger"
)

var update = flag.Bool("update", false, "write the golden files again")

var t0 = time.Date(2026, 11, 22, 19, 20, 55, 351012634, time.UTC)

// samples are requests of every kind.
func samples() map[string]*usage.Finished {
	place := trace.Place{Trace: "0af7651916cd43dd8448eb211c80319c", Span: "b7ad6b716920333", Parent: "00f067aa0ba902b7", Sampled: true}
	whole := usage.Record{
		RequestID: "9f0c2c5e-1", Start: t0, Duration: 1204 * time.Millisecond, FirstByte: 81200 * time.Microsecond, FirstToken: 80 * time.Millisecond,
		Status: 200, Details: "via_upstream", Stream: true, Dialect: "openai", Operation: "chat", Model: "gpt-4o", Route: "default/all/0",
		Backend: "default/openai", Endpoint: "10.0.0.2:443", Consumer: "demo", Tenant: "acme", Credential: "key:demo", Version: "12bbd73e4ba1",
		BytesIn: 812, BytesOut: 5120, Attempts: 2, Native: true, Trace: place, Caller: "192.0.2.7:51234", Method: "POST", Path: "/v1/chat/completions",
	}
	entry := &ledger.Entry{
		Backend: "default/openai", UpstreamModel: "gpt-4o-2024-11-20", Tokens: ledger.Tokens{Input: 100, CacheRead: 20, Output: 40, Reasoning: 7},
		Cost: 420_000, Currency: "USD", Attempts: 2, Flags: ledger.Flags{Estimated: true, Translated: true},
	}
	open := &usage.Open{
		RequestID: "9f0c2c5e-1", Trace: place, Time: t0, Gateway: "default/local", Path: "/v1/chat/completions", Tenant: "acme", Namespace: "default", Consumer: "demo",
		Credential: "key:demo", Route: "default/all/0", Model: "gpt-4o", Operation: "chat", Dialect: "openai", Stream: true,
	}
	failed := []usage.Failed{
		{N: 1, Backend: "default/first", Endpoint: "10.0.0.1:443", Duration: 30 * time.Millisecond, Status: 503},
		{N: 2, Backend: "default/first", Duration: time.Second, Flags: "UF", Reason: "connection refused"},
	}
	refused := usage.Record{
		RequestID: "r2", Start: t0, Duration: 900 * time.Microsecond, FirstByte: 900 * time.Microsecond, Status: 429, Details: "weir_rate_limit",
		Policy: "default/fair-use/requests", Refusal: "Too many requests: \"fair-use\" allows 10 a minute.", Immediate: true, Dialect: "anthropic", Operation: "chat", Model: "claude", Consumer: "demo", Tenant: "acme", Credential: "key:demo",
		Trace: trace.Place{Trace: place.Trace, Span: place.Span}, Caller: "192.0.2.7:51234", Method: "POST", Path: "/v1/messages",
	}
	hostile := usage.Record{
		Start: t0, RequestID: "a\"b\\c\n{\"type\":\"access\"}\x1b[31m\u2028\u0085\x00\xff\xc3", Model: strings.Repeat("é", 300),
		Path: "/sk-AbCdEf/v1/messages?api_key=s3cret", Method: "POST", Status: 404, Caller: "192.0.2.7:51234",
	}
	gone := usage.Record{Start: t0, RequestID: "r4", Duration: 2 * time.Second, Aborted: true, Flags: "DC", Details: "downstream_remote_disconnect", Caller: "[2001:db8::1]:4321", Method: "POST", Path: "/v1/messages"}
	unpriced := *entry
	unpriced.Unpriced, unpriced.Cost, unpriced.Flags = true, 0, ledger.Flags{Unpriced: true}
	kept := *entry
	kept.Backend, kept.UpstreamModel, kept.Tokens, kept.Cost, kept.Attempts, kept.Flags, kept.Cache = "", "", ledger.Tokens{}, 0, 0, ledger.Flags{}, "hit"
	kept.SavedTokens, kept.SavedCost = ledger.Tokens{Input: 120, Output: 47}, 420_001
	summary := *entry
	summary.Purpose = "summary"
	return map[string]*usage.Finished{
		"kept":     {At: t0, Record: &whole, Open: open, Entry: &kept},
		"summary":  {At: t0, Record: &whole, Open: open, Entry: &summary},
		"whole":    {At: t0.Add(2 * time.Second), Record: &whole, Open: open, Entry: entry, Failed: failed},
		"unpriced": {At: t0, Record: &whole, Open: open, Entry: &unpriced},
		"refused":  {At: t0, Record: &refused},
		"hostile":  {At: t0, Record: &hostile},
		"gone":     {At: t0, Record: &gone},
		"lost":     {At: t0.Add(time.Minute), Open: open, Entry: &ledger.Entry{Backend: "default/openai", Attempts: 1, Tokens: ledger.Tokens{Input: 9}, Currency: "USD", Flags: ledger.Flags{Estimated: true, Interrupted: true}}},
		"nothing":  {At: t0},
	}
}

// lineOf is the line that a Log writes.
func lineOf(t testing.TB, f *usage.Finished, text bool) string {
	t.Helper()
	var out bytes.Buffer
	l := accesslog.New(accesslog.Options{Out: &out, Text: text, Registry: prometheus.NewRegistry()})
	l.Finished(f)
	l.Close(t.Context())
	return out.String()
}

func TestLines(t *testing.T) {
	local := time.Local
	time.Local = time.UTC // of the lines for people
	t.Cleanup(func() { time.Local = local })
	all := samples()
	for name, text := range map[string]bool{"lines.jsonl": false, "lines.txt": true} {
		var got strings.Builder
		for _, k := range slices.Sorted(maps.Keys(all)) {
			got.WriteString(lineOf(t, all[k], text))
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("%s: got\n%swant\n%s", name, got.String(), want)
		}
	}
}

// TestSchema: every field of every line is one that docs/logs.md describes, and each of those is in some line.
func TestSchema(t *testing.T) {
	page, err := os.ReadFile("../../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name, f := range samples() {
		var line map[string]any
		if err := json.Unmarshal([]byte(lineOf(t, f, false)), &line); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for k := range line {
			seen[k] = true
		}
	}
	for k := range seen {
		if !strings.Contains(string(page), "`"+k+"`") {
			t.Errorf("docs/logs.md does not describe %s", k)
		}
	}
	_, table, _ := strings.Cut(string(page), "\n| field | | |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := 0
	for row := range strings.Lines(table) {
		cell, ok := strings.CutPrefix(row, "| `")
		if !ok {
			continue
		}
		cell, _, _ = strings.Cut(cell, "` |")
		for field := range strings.SplitSeq(cell, "` `") {
			if rows++; !seen[field] {
				t.Errorf("docs/logs.md describes %s, which no line has", field)
			}
		}
	}
	if rows != len(seen) {
		t.Errorf("docs/logs.md describes %d fields, and lines have %d", rows, len(seen))
	}
}

// FuzzLine: whatever callers send, a line is one line, valid JSON, of bounded length, and means what was sent.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"plain", "a\"b\\\n\r\t\x00\x1b", "\u2028\u2029\u0085", "\xff\xfe\xc3", strings.Repeat("é", 400), strings.Repeat("\xf0\x9f", 300)} {
		f.Add(s, s, s)
	}
	f.Fuzz(func(t *testing.T, id, model, path string) {
		in := &usage.Finished{
			Record: &usage.Record{RequestID: id, Model: model, Path: path, Details: id, Refusal: model, Policy: id, Method: "POST", Endpoint: model, Flags: path},
			Failed: []usage.Failed{{N: 1, Reason: id, Endpoint: model}},
		}
		for _, text := range []bool{false, true} {
			line := lineOf(t, in, text)
			if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") || len(line) > 64<<10 || !utf8.ValidString(line) {
				t.Fatalf("%d bytes: %q", len(line), line)
			}
			for _, r := range strings.TrimSuffix(line, "\n") {
				if r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u2028' || r == '\u2029' {
					t.Fatalf("%U is in %q", r, line)
				}
			}
			if text {
				continue
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if want := strings.ToValidUTF8(id, "\ufffd"); len(id) <= 100 && utf8.ValidString(id) && id != "" && got["request_id"] != want {
				t.Errorf("request_id is %q, want %q", got["request_id"], want)
			}
		}
	})
}

// TestLineAllocations: one line of a request must not become work for the collector.
func TestLineAllocations(t *testing.T) {
	l := accesslog.New(accesslog.Options{Out: bytes.NewBuffer(nil), Registry: prometheus.NewRegistry()})
	l.SetEnabled(false)
	f := samples()["whole"]
	if n := testing.AllocsPerRun(100, func() { l.Finished(f) }); n != 0 {
		t.Errorf("%v allocations while it is off", n)
	}
	l.Close(t.Context())
}
