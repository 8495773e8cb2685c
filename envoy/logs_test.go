package envoy

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestForwardLogs(t *testing.T) {
	tests := []struct{ line, want string }{
		{`{"l":"warning","c":"upstream","m":"host is \"down\""}`, `level=WARN msg="host is \"down\"" component=upstream`},
		{`{"l":"critical","c":"main","m":"cannot go on"}`, `level=ERROR msg="cannot go on" component=main`},
		{`{"l":"info","c":"http","m":"a line worth reading"}`, `level=INFO msg="a line worth reading" component=http`},
		{`{"l":"info","c":"main","m":"initializing epoch 0 (base id=0)"}`, `level=DEBUG msg="initializing epoch 0 (base id=0)" component=main`},
		{`{"l":"error","c":"main","m":"exiting in an odd way"}`, `level=ERROR msg="exiting in an odd way" component=main`},
		{`{"l":"info","c":"lua","m":"envoy_on_response() function not found. Lua filter will not hook responses."}`,
			`level=DEBUG msg="envoy_on_response() function not found. Lua filter will not hook responses." component=lua`},
		{`{"l":"odd","c":"x","m":"y"}`, `level=WARN msg=y component=x`},
		{`a stack trace`, `level=WARN msg="a stack trace"`},
		{`{"l":"warning","c":`, `level=WARN msg="{\"l\":\"warning\",\"c\":"`},
		{"", ""},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: dropTime}))
		var tail logTail
		forwardLogs(strings.NewReader(tt.line+"\n\n"), log, &tail)
		if got := strings.TrimSpace(out.String()); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.line, got, tt.want)
		}
	}
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func TestForwardLogsWhileEnvoyEnds(t *testing.T) {
	const lines = `{"l":"warning","c":"config","m":"before"}
{"l":"warning","c":"main","m":"caught ENVOY_SIGTERM"}
{"l":"warning","c":"config","m":"stream closed"}
{"l":"error","c":"main","m":"a real error"}
`
	var out bytes.Buffer
	forwardLogs(strings.NewReader(lines), slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: dropTime})), &logTail{})
	const want = "level=WARN msg=before component=config\nlevel=ERROR msg=\"a real error\" component=main\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestForwardLogsDropsTheRepeatedBootstrap(t *testing.T) {
	const lines = "{\"l\":\"critical\",\"c\":\"main\",\"m\":\"error `goo.gle/debugproto\\nnode {\\n}\\n: Proto constraint validation failed (X.Y: too long)` initializing config 'e.json'\"}\n" +
		"goo.gle/debugproto\nnode {\n}\n: Proto constraint validation failed (X.Y: too long)\n"
	var out bytes.Buffer
	var tail logTail
	forwardLogs(strings.NewReader(lines), slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: dropTime})), &tail)
	const want = "level=ERROR msg=\"error `(X.Y: too long)` initializing config\" component=main\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if got := Explain(tail.snapshot()...); got != "Envoy refused its bootstrap: (X.Y: too long)" {
		t.Errorf("Explain = %q", got)
	}
}

func TestLongLinesAndTail(t *testing.T) {
	var in strings.Builder
	in.WriteString(strings.Repeat("x", 3*maxLogLine) + "\r\n")
	for i := range tailLines + 5 {
		fmt.Fprintf(&in, "line %d\n", i)
	}
	in.WriteString("no newline at the end")
	var tail logTail
	var lines []string
	forEachLine(strings.NewReader(in.String()), func(s string) { lines = append(lines, s) })
	forwardLogs(strings.NewReader(in.String()), slog.New(slog.DiscardHandler), &tail)
	if len(lines) != tailLines+7 || len(lines[0]) != maxLogLine || lines[1] != "line 0" {
		t.Errorf("%d lines, the first of %d bytes, then %q", len(lines), len(lines[0]), lines[1])
	}
	kept := tail.snapshot()
	if len(kept) != tailLines || kept[tailLines-1] != "no newline at the end" || kept[0] != "line 6" {
		t.Errorf("the tail has %d lines from %q to %q", len(kept), kept[0], kept[len(kept)-1])
	}
}

func TestRedact(t *testing.T) {
	const in = "request headers complete:\n':path', '/v1beta/models/m:generateContent?key=SECRET&alt=sse'\n" +
		"'authorization', 'Bearer SECRET'\n'X-Api-Key', 'it's SECRET'\n'x-request-id', 'kept'\n'cookie', 'SECRET'"
	const want = "request headers complete:\n':path', '/v1beta/models/m:generateContent?key=[redacted]&alt=sse'\n" +
		"'authorization', '[redacted]'\n'X-Api-Key', '[redacted]'\n'x-request-id', 'kept'\n'cookie', '[redacted]'"
	if got := redact(in); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		// From a NACK of a listener.
		{"Error adding/updating listener(s) gateway: cannot bind '192.0.2.1:80': Cannot assign requested address",
			"cannot listen on 192.0.2.1:80: no network interface of this machine has that address"},
		{"error `cannot bind '127.0.0.1:80': Permission denied` initializing config 'x'",
			"no permission to listen on 127.0.0.1:80: choose a port above 1023, or give this process the capability CAP_NET_BIND_SERVICE"},
		{"error `cannot bind '/run/none/admin.sock': No such file or directory` initializing config 'x'",
			"Envoy cannot listen on /run/none/admin.sock: no such file or directory"},
		{"cannot bind '192.0.2.1:1': Address already in use", "192.0.2.1:1 is already in use: stop that process or choose another port"},
		{"error `unknown field` initializing config 'x'", "Envoy refused its bootstrap: unknown field"},
		{"envoy: error while loading shared libraries: libz.so.1", "Envoy does not run on this system: envoy: error while loading shared libraries: libz.so.1"},
		{"nothing of the kind", ""},
	} {
		if got := Explain("something before", tt.line, "something after"); got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.line, got, tt.want)
		}
	}
}

func FuzzParseLogLine(f *testing.F) {
	f.Add(`{"l":"info","c":"main","m":"x"}`)
	f.Add(`{"l":"critical","c":"main","m":"error ` + "`cannot bind 'a': Address already in use`" + ` initializing config"}`)
	f.Add("'authorization', 'Bearer x'\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		l := parseLogLine(s)
		if !utf8.ValidString(l.message) {
			t.Errorf("invalid UTF-8 from %q", s)
		}
		// What is explained stays one line, whatever Envoy printed.
		Explain(l.message)
		if again := redact(redact(l.message)); again != redact(l.message) {
			t.Errorf("redacting twice differs: %q", again)
		}
	})
}

func TestEnvoyLevel(t *testing.T) {
	for l, want := range map[slog.Level]string{
		slog.LevelDebug - 4: "debug", slog.LevelDebug: "debug", slog.LevelInfo: "info", slog.LevelWarn: "warning", slog.LevelError: "error", slog.LevelError + 4: "error",
	} {
		if got := envoyLevel(l); got != want {
			t.Errorf("envoyLevel(%v) = %s; want %s", l, got, want)
		}
	}
}
