package relay

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/wire"
)

// notOurs are headers of a fill's answer that the door writes on every answer itself, or that belong to the connection.
var notOurs = []string{
	"connection", "keep-alive", "transfer-encoding", "trailer", "server", "date", "x-request-id", wire.RouteHeader,
	wire.KeyLimitRequests, wire.KeyRemainingRequests, wire.KeyResetRequests,
}

// copyHeader takes over the header of a fill's answer.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		if lower := strings.ToLower(name); slices.Contains(notOurs, lower) || strings.HasPrefix(lower, "x-envoy-") {
			continue
		}
		to[name] = values
	}
}

// writeError answers with an error in the shape of the caller's dialect.
func writeError(w http.ResponseWriter, d *canon.Dialect, e *canon.Error, requestID string) {
	h := w.Header()
	h["Date"] = nil // Envoy's business
	body := d.In.AppendError(nil, e, requestID)
	h.Set("content-type", "application/json")
	h.Set("content-length", strconv.Itoa(len(body)))
	if e.RetryAfter > 0 {
		h.Set("retry-after", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(e.HTTPStatus())
	_, _ = w.Write(body) // a caller who has gone wants no error
}
