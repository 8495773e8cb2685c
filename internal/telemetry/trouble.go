package telemetry

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
)

// tellEvery is the time between two lines about the same trouble. A collector that is away for a night is no reason to fill a disk.
const tellEvery = time.Minute

// trouble tells of exports that fail, now and then.
type trouble struct {
	what    string
	log     *slog.Logger
	now     func() time.Time
	secrets *strings.Replacer

	mu     sync.Mutex
	told   time.Time // of the last line about a failure; zero where there was none
	missed int       // failures since then
	open   bool      // that it is over has not been said
}

// note takes the outcome of an export. A collector that takes every other one is told of as seldom as one that takes none.
func (t *trouble) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		if t.open {
			t.log.Info(t.what + " are exported again")
		}
		t.open = false
		return
	}
	now := t.now()
	if !t.told.IsZero() && now.Sub(t.told) < tellEvery {
		t.missed++
		return
	}
	attrs := []any{"error", t.secrets.Replace(err.Error())}
	if t.missed > 0 {
		attrs = append(attrs, "failures_since_the_last_line", t.missed)
	}
	t.log.Warn(t.what+" cannot be exported; requests are served as ever", attrs...)
	t.told, t.missed, t.open = now, 0, true
}

// listen takes what the SDK has to say of itself, which otherwise goes to standard error, values of headers included. The SDK has one place
// for that in a process. While the SDK is being set up, what goes wrong is kept for heard, because it makes the result another one than was
// asked for.
func listen(log *slog.Logger, secrets *strings.Replacer) *hearing {
	h := &hearing{log: log, secrets: secrets, settingUp: true}
	otel.SetLogger(logr.New(h))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { h.Error(err, "") }))
	return h
}

type hearing struct {
	log     *slog.Logger
	secrets *strings.Replacer

	mu        sync.Mutex
	settingUp bool
	first     error
}

// heard ends the setting up, and returns what went wrong in it.
func (h *hearing) heard() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settingUp = false
	return h.first
}

// Init and the others make it a logr.LogSink.
func (h *hearing) Init(logr.RuntimeInfo) {}

// Enabled leaves out all but errors.
func (h *hearing) Enabled(level int) bool { return false }

// Info is not asked.
func (h *hearing) Info(int, string, ...any) {}

// Error takes an error. What comes with it is left out but for names of files: it may be a secret.
func (h *hearing) Error(err error, msg string, attrs ...any) {
	for i := 0; i+1 < len(attrs); i += 2 {
		if attrs[i] == "file" {
			msg = fmt.Sprintf("%s %v", msg, attrs[i+1])
		}
	}
	text := strings.Trim(msg+": "+fmt.Sprint(err), ": ")
	text = h.secrets.Replace(text)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.settingUp {
		if h.first == nil {
			h.first = errors.New(text)
		}
		return
	}
	h.log.Warn("OpenTelemetry", "error", text)
}

// WithValues and WithName change nothing.
func (h *hearing) WithValues(...any) logr.LogSink { return h }

// WithName changes nothing.
func (h *hearing) WithName(string) logr.LogSink { return h }
