package envoy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
)

// logFormat makes every Envoy log line a JSON object. The flags are spdlog's, and %j is Envoy's own:
// the message, escaped for JSON (`envoy --help`, --log-format).
const logFormat = `{"l":"%l","c":"%n","m":"%j"}`

const (
	// maxLogLine is how many bytes of one line are kept; Envoy prints whole configurations into
	// some error lines.
	maxLogLine = 64 << 10
	// tailLines is how many lines at warning and above are kept to explain a failed start.
	tailLines = 40
)

// envoyLevel is the --log-level for a slog level. There is nothing below debug on purpose: trace prints
// the bytes of requests, credentials and all.
func envoyLevel(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}

// logLine is one line of Envoy's log.
type logLine struct {
	level     slog.Level
	component string // Envoy's logger: main, config, upstream, ...; empty for a line that is no log record
	message   string
}

// parseLogLine reads a line in logFormat. Anything else, such as the stack trace of a crash, is a warning
// as it stands.
func parseLogLine(line string) logLine {
	var rec struct {
		L, C, M string
	}
	if !strings.HasPrefix(line, `{"l":`) || json.Unmarshal([]byte(line), &rec) != nil {
		return logLine{level: slog.LevelWarn, message: strings.ToValidUTF8(line, "\uFFFD")}
	}
	l := logLine{component: rec.C, message: rec.M}
	switch rec.L {
	case "trace", "debug":
		l.level = slog.LevelDebug
	case "info":
		l.level = slog.LevelInfo
	case "error", "critical":
		l.level = slog.LevelError
	default:
		l.level = slog.LevelWarn
	}
	return l
}

// endingPrefix begins the first line after Weir's SIGTERM.
const endingPrefix = "caught ENVOY_SIGTERM"

// quiet are the lines that tell an operator nothing: the start-up monologue, what Weir reports itself
// (signals it sends, updates it pushes). They go out at debug level. Prefixes, per component.
var quiet = map[string][]string{
	"main": {
		"initializing epoch", "statically linked extensions", "  ", "HTTP header map info", "runtime: ",
		"Starting admin HTTP server", "all clusters initialized", "starting main dispatch loop",
		endingPrefix, "shutting down server instance", "main dispatch loop exited", "exiting",
	},
	"admin":  {"admin address"},
	"config": {"loading ", "all dependencies initialized", "lds: ", "rds: "},
	// Nor looked for: a script reads requests, or answers, and seldom both.
	"lua": {"envoy_on_response() function not found", "envoy_on_request() function not found"},
	// The filter that counts tokens is marked so; that it does what is needed is tested.
	"misc":     {"message 'envoy.extensions.filters.http.ai_protocol_manager."},
	"runtime":  {"RTDS has finished initialization"},
	"upstream": {"cm init: ", "cds: ", "add/update cluster", "added/updated", "removing cluster", "lds: ", "rds: "},
}

func (l logLine) quieted() logLine {
	if l.level >= slog.LevelError {
		return l
	}
	for _, prefix := range quiet[l.component] {
		if strings.HasPrefix(l.message, prefix) {
			l.level = slog.LevelDebug
			return l
		}
	}
	return l
}

// At debug level Envoy prints the headers of every request as 'name', 'value' lines, and the path with
// its query. These two find the credentials in that.
var (
	secretHeader = regexp.MustCompile(`(?i)('(?:authorization|proxy-authorization|x-api-key|api-key|x-goog-api-key|cookie|set-cookie)', ')[^\n]*?('(?:\n|$))`)
	secretQuery  = regexp.MustCompile(`(?i)([?&](?:key|api_key|api-key|access_token|token)=)[^&\s'"]+`)
)

func redact(s string) string {
	s = secretHeader.ReplaceAllString(s, "${1}[redacted]${2}")
	return secretQuery.ReplaceAllString(s, "${1}[redacted]")
}

// logTail keeps the last lines at warning and above of one process.
type logTail struct {
	mu    sync.Mutex
	lines []string
}

func (t *logTail) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		copy(t.lines, t.lines[1:])
		t.lines = t.lines[:tailLines-1]
	}
	t.lines = append(t.lines, s)
}

func (t *logTail) snapshot() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// forwardLogs copies Envoy's log into log until r ends, and keeps its tail.
func forwardLogs(r io.Reader, log *slog.Logger, tail *logTail) {
	ctx := context.Background()
	repeated, ending := false, false
	forEachLine(r, func(line string) {
		l := parseLogLine(line)
		l.message = redact(l.message)
		if cause, ok := initCause(l.message); ok {
			// Without the configuration itself. What follows on standard error repeats all of it, unformatted.
			l.message = "error `" + cause + "` initializing config"
			repeated = true
		} else if repeated && l.component == "" {
			l.level = slog.LevelDebug
		}
		if l.level >= slog.LevelWarn {
			tail.add(l.message)
		}
		l = l.quieted()
		// What Envoy says about its closing connections while it ends as told is no news.
		ending = ending || strings.HasPrefix(l.message, endingPrefix)
		if ending && l.level <= slog.LevelWarn {
			l.level = slog.LevelDebug
		}
		if !log.Enabled(ctx, l.level) {
			return
		}
		var attrs []slog.Attr
		if l.component != "" {
			attrs = append(attrs, slog.String("component", l.component))
		}
		log.LogAttrs(ctx, l.level, l.message, attrs...)
	})
}

// forEachLine calls fn with each line that is not empty, cut after maxLogLine bytes. bufio.Scanner
// would stop at a longer one, and with it the process that writes to the pipe.
func forEachLine(r io.Reader, fn func(string)) {
	br := bufio.NewReaderSize(r, maxLogLine)
	for {
		chunk, err := br.ReadSlice('\n')
		line := strings.TrimRight(string(chunk), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if line != "" {
			fn(line)
		}
		if err != nil {
			return
		}
	}
}

// bindError is Envoy's message for an address it cannot listen on: the address, then strerror(3).
var bindError = regexp.MustCompile("cannot bind '([^']+)': ([A-Z][a-zA-Z ]+)")

// initError is Envoy's last log line when it cannot use its bootstrap: the whole cause, then the file.
var initError = regexp.MustCompile("(?s)^error `(.*)` initializing config")

// initCause returns the cause in such a line. For a violated constraint Envoy prints the configuration
// first and the cause behind it.
func initCause(line string) (string, bool) {
	m := initError.FindStringSubmatch(line)
	if m == nil {
		return "", false
	}
	if _, after, ok := strings.Cut(m[1], "Proto constraint validation failed"); ok {
		return strings.TrimSpace(after), true
	}
	return m[1], true
}

// Explain turns what Envoy said when it failed, its last log lines or the message of a NACK, into one
// sentence. It returns "" when it finds nothing it knows.
func Explain(lines ...string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if m := bindError.FindStringSubmatch(lines[i]); m != nil {
			return explainBind(m[1], m[2])
		}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		line := lines[i]
		if strings.Contains(line, "error while loading shared libraries") || strings.Contains(line, "version `GLIBC_") {
			return "Envoy does not run on this system: " + clip(line, 300)
		}
		if cause, ok := initCause(line); ok {
			return "Envoy refused its bootstrap: " + clip(cause, 500)
		}
	}
	return ""
}

func explainBind(address, cause string) string {
	switch cause {
	case "Address already in use":
		return inUse(address)
	case "Permission denied":
		return notPermitted(address)
	case "Cannot assign requested address":
		return noSuchAddress(address)
	}
	return "Envoy cannot listen on " + address + ": " + strings.ToLower(cause)
}
