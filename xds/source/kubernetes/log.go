package kubernetes

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// SendLibraryLogs makes what Kubernetes' libraries log of their own accord go to log, at debug level: what matters, Weir says itself.
// It holds for the whole process. Call it once, at the start.
func SendLibraryLogs(log *slog.Logger) { klog.SetLogger(quietly(log)) }

// quietly is log for a library: nothing is more than a debug message.
func quietly(log *slog.Logger) logr.Logger { return logr.FromSlogHandler(quiet{log.Handler()}) }

// quiet lowers the level of every record to debug.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, min(level, slog.LevelDebug))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = min(r.Level, slog.LevelDebug); !q.Handler.Enabled(ctx, r.Level) {
		return nil // logr hands on errors without asking
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// warnings hears the warnings that an API server sends with its answers.
type warnings struct{ log *slog.Logger }

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _ string, message string) {
	if code == 299 && message != "" { // 299 is the only code that API servers use
		w.log.Debug("the API server warns", "message", message)
	}
}
