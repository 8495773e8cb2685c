package redisconn

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/redis/go-redis/v9"
)

// LogTo has what the client library says about its connections written to log at the level of debugging: errors reach
// who gave the command, and Health. The library has one log for the whole process, which is standard error until then;
// a main function calls this before it opens connections.
func LogTo(log *slog.Logger) { redis.SetLogger(logger{log}) }

type logger struct{ log *slog.Logger }

// Printf is called by the library.
func (l logger) Printf(ctx context.Context, format string, args ...any) {
	if !l.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	l.log.DebugContext(ctx, strings.TrimSpace("Redis client: "+fmt.Sprintf(format, args...)))
}
