package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/usage/ledger"
	"github.com/weir-dev/weir/usage/ledger/ship"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// weirUsage runs the command; notes are what it says beside the report.
func weirUsage(args ...string) (out, notes string, err error) {
	c := usageCommand()
	c.SilenceUsage, c.SilenceErrors = true, true
	var stdout, stderr bytes.Buffer
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	c.SetArgs(args)
	err = c.Execute()
	return stdout.String(), stderr.String(), err
}

var usageDay = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

// usageEntries are entries with every flag, and texts that callers have chosen to do harm.
func usageEntries() []ledger.Entry {
	e := func(id, tenant, model string, change func(*ledger.Entry)) ledger.Entry {
		out := ledger.Entry{
			ID: id, Time: usageDay, RequestID: "r-" + id, Tenant: tenant, Namespace: tenant, Consumer: "ci", Credential: "key:ci-1",
			Gateway: tenant + "/gw", Route: "chat", Backend: tenant + "/openai", Model: model, UpstreamModel: "gpt", Operation: "chat", Dialect: "openai",
			Stream: true, Status: 200, Attempts: 1, Tokens: ledger.Tokens{Input: 100, CacheRead: 20, CacheWrite: 3, Output: 40, Reasoning: 11},
			Cost: 1_234_567, Currency: "USD", PriceVersion: "v1", TTFT: 150 * time.Millisecond, Duration: 1151 * time.Millisecond,
		}
		if change != nil {
			change(&out)
		}
		return out
	}
	return []ledger.Entry{
		e("a1", "acme", "fast", nil),
		e("a2", "acme", "fast", func(e *ledger.Entry) { e.Estimated, e.Aborted, e.Time = true, true, usageDay.AddDate(0, 0, 1) }),
		e("a3", "acme", "=HYPERLINK(\"http://evil\",\"x\")", func(e *ledger.Entry) { e.Credential = "key:ci-2"; e.Cost = 9_000_000_000_000_000_001 }),
		e("a4", "acme", "fast", func(e *ledger.Entry) { e.Interrupted, e.Estimated, e.Status = true, true, 0 }),
		e("u1", "umbrella", "red\x1b[31m\ttext\n", func(e *ledger.Entry) { e.Unpriced, e.Cost, e.Status = true, 0, 500 }),
		e("u2", "umbrella", "fast", func(e *ledger.Entry) {
			e.Cached, e.Translated, e.Cut, e.Cost, e.Currency = true, true, true, 5, "EUR"
			e.SavedTokens, e.SavedCost = ledger.Tokens{Input: 123, Output: 40, Reasoning: 11}, 1_234_568
		}),
		e("old", "acme", "fast", func(e *ledger.Entry) { e.Time = usageDay.AddDate(0, -1, 0) }),
	}
}

// usageState is a state folder with the entries.
func usageState(t *testing.T) (string, *ledger.Ledger) {
	t.Helper()
	dir := t.TempDir()
	l, err := ledger.Open(dir, ledger.Options{Now: func() time.Time { return usageDay }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, e := range usageEntries() {
		if !l.Begin(ledger.Intent{ID: e.ID, Time: e.Time}) || !l.Commit(e) {
			t.Fatal(e.ID)
		}
		// One by one, so that they stand in this order in the ledger.
		if err := l.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	return dir, l
}

func TestUsageReports(t *testing.T) {
	dir, _ := usageState(t)
	march := []string{"--from", "2026-03-01", "--to", "2026-03-31"}
	for name, args := range map[string][]string{
		"table":         march,
		"csv":           append([]string{"--format", "csv", "--by", "tenant,key,model,day"}, march...),
		"json":          append([]string{"--format", "json", "--by", "tenant"}, march...),
		"total":         append([]string{"--by", ""}, march...),
		"filtered":      append([]string{"--tenant", "acme", "--key", "ci-1", "--by", "day,route,backend"}, march...),
		"none":          {"--from", "2027-01-01", "--to", "2027-01-01"},
		"gateway":       append([]string{"--gateway", "acme/gw", "--by", "gateway,route"}, march...),
		"exactly":       {"--from", "2026-03-14T12:00:00Z", "--to", "2026-03-14T12:00:01Z", "--by", "day"},
		"entries-table": append([]string{"--entries"}, march...),
		"entries-csv":   append([]string{"--entries", "--format", "csv", "--tenant", "umbrella"}, march...),
		"entries-json":  append([]string{"--entries", "--format", "json", "--tenant", "umbrella"}, march...),
		"entries-none":  {"--entries", "--from", "2027-01-01"},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes, err := weirUsage(append([]string{"--state-dir", dir}, args...)...)
			if err != nil || notes != "" {
				t.Fatalf("%v; %s", err, notes)
			}
			out = strings.ReplaceAll(out, dir, "STATE")
			if strings.ContainsRune(out, '\x1b') && !strings.HasSuffix(name, "csv") {
				t.Error("a caller's text reaches the terminal as it is")
			}
			golden := filepath.Join("testdata", "usage", name+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || out != string(want) {
				t.Errorf("%v; run with -update and read the difference. Now it is:\n%s", err, out)
			}
		})
	}
}

// TestUsageFormatsParse reads the machine formats back.
func TestUsageFormatsParse(t *testing.T) {
	dir, _ := usageState(t)
	out, _, err := weirUsage("--state-dir", dir, "--from", "2026-01-01", "--format", "csv", "--entries")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 1+len(usageEntries()) {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
				t.Errorf("a spreadsheet takes %q for a formula", cell)
			}
		}
	}
	out, _, err = weirUsage("--state-dir", dir, "--from", "2026-01-01", "--format", "json", "--entries")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		var e ledger.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil || e != usageEntries()[i] {
			t.Errorf("line %d is %s, %v", i, line, err)
		}
	}
}

func TestUsageSaysWhatIsDamaged(t *testing.T) {
	dir, l := usageState(t)
	slot, _ := l.Slot()
	files, err := filepath.Glob(filepath.Join(slot, "entries-*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if err := os.WriteFile(files[0], fmt.Appendf(data, "garbage\n%s\n", line), 0o600); err != nil {
		t.Fatal(err)
	}
	_, notes, err := weirUsage("--state-dir", dir, "--from", "2026-01-01")
	if err != nil || !strings.Contains(notes, "1 lines of the ledger") || !strings.Contains(notes, "1 entries of the ledger") {
		t.Errorf("%q, %v", notes, err)
	}
}

func TestUsageRefuses(t *testing.T) {
	dir, _ := usageState(t)
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--by", "colour"}, `--by: "colour"`},
		{[]string{"--from", "yesterday"}, `--from "yesterday" is neither a day`},
		{[]string{"--to", "2026-13-01"}, "--to "},
		{[]string{"--from", "2026-03-02", "--to", "2026-03-01"}, "is before the beginning"},
		{[]string{"--format", "xml"}, "use table, csv or json"},
		{[]string{"--source", "cloud"}, "use auto, local or redis"},
		{[]string{"--source", "redis"}, "needs --file"},
		{[]string{"--state-dir", filepath.Join(empty, "nothing")}, "there is no ledger in"},
		{[]string{"-f", empty}, empty},
	} {
		args := append([]string{"--state-dir", dir}, c.args...)
		if out, _, err := weirUsage(args...); err == nil || !strings.Contains(err.Error(), c.want) || out != "" {
			t.Errorf("%v: %q, %v", c.args, out, err)
		}
	}
}

func TestUsageDefaultsToThisMonth(t *testing.T) {
	q, err := usageOptions{by: "tenant"}.query(time.Date(2026, 3, 31, 23, 30, 0, 0, time.FixedZone("", -3600)))
	if err != nil || !q.From.Equal(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) || !q.To.IsZero() {
		t.Errorf("%+v, %v", q, err)
	}
}

const usageGateway = `
apiVersion: weir.dev/v1alpha1
kind: LLMGateway
metadata: {name: gw, namespace: acme}
spec:
  listeners: [{name: http, port: 8080}]
  accounting: {ledger: %s}
  sharedState:
    redis:
      addresses: ["%s"]
      passwordRef: {env: WEIR_TEST_REDIS_PASSWORD}
---
apiVersion: weir.dev/v1alpha1
kind: Backend
metadata: {name: openai, namespace: acme}
spec: {this is: wrong, and no concern of a report: true}
`

// TestUsageFromRedis reports what two replicas have shipped, with the address and the password from the folder.
func TestUsageFromRedis(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	t.Setenv("WEIR_TEST_REDIS_PASSWORD", "secret")
	conf := t.TempDir()
	write := func(kind string) {
		t.Helper()
		text := fmt.Sprintf(usageGateway, kind, server.Addr)
		if err := os.WriteFile(filepath.Join(conf, "gateway.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("Redis")
	settings, err := gatewaySettings(conf)
	if err != nil {
		t.Fatal(err)
	}
	src, err := openShared(settings.Shared)
	if err != nil {
		t.Fatal(err)
	}
	src.close()
	dirs := [2]string{}
	for i := range dirs {
		dir, l := usageState(t)
		dirs[i] = dir
		c := server.Client()
		c.Options().Password = "secret"
		s, err := ship.New(l, c, ship.Options{Prefix: settings.Shared.KeyPrefix, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ship(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	requests := func(args ...string) (n int64, ledgerName string) {
		t.Helper()
		out, _, err := weirUsage(append(args, "--from", "2026-01-01", "--format", "json", "--by", "tenant")...)
		if err != nil {
			t.Fatal(err)
		}
		var report struct {
			Ledger string
			Rows   []ledger.Row
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatal(err)
		}
		for _, row := range report.Rows {
			n += row.Requests
		}
		return n, report.Ledger
	}
	each := int64(len(usageEntries()))
	if n, name := requests("-f", conf); n != 2*each || !strings.Contains(name, server.Addr) {
		t.Errorf("%d requests in %s", n, name)
	}
	if n, name := requests("-f", conf, "--source", "local", "--state-dir", dirs[0]); n != each || name != dirs[0] {
		t.Errorf("%d requests in %s", n, name)
	}
	out, _, err := weirUsage("-f", conf, "--from", "2026-01-01", "--entries", "--format", "csv")
	if err != nil || strings.Count(out, "a1,r-a1") != 2 {
		t.Errorf("%s, %v", out, err)
	}
	write("Local")
	if n, _ := requests("-f", conf, "--state-dir", dirs[0]); n != each {
		t.Errorf("%d requests are in the local ledger", n)
	}
	if n, _ := requests("-f", conf, "--source", "redis"); n != 2*each {
		t.Errorf("%d requests are in Redis", n)
	}
	t.Setenv("WEIR_TEST_REDIS_PASSWORD", "wrong-one")
	if _, _, err := weirUsage("-f", conf, "--source", "redis"); err == nil || strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("%v", err)
	}
}
