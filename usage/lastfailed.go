package usage

import (
	"cmp"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
)

// failedOf gives the failed attempts of a request that is over, in order. o is nil where it was not let in, and backend is that of its entry.
func (d *Desk) failedOf(r *Record, o *Open, backend string) []Failed {
	switch {
	case r.Attempts == 0:
		return nil
	case r.Immediate || r.Status > 0 && r.Status < 400 && r.Flags == "" && !r.Aborted:
		return d.failed.take(r.Trace.Span)
	}
	var last *Failed
	if f, ok := lastFailed(r, o != nil && o.hasFailed()); ok {
		if f.Backend = cmp.Or(f.Backend, backend); f.Backend != "" {
			last = &f
		}
	}
	list, made := d.failed.end(r.Trace.Span, r.Attempts, last)
	if n := len(list); made && n > 1 {
		list[n-1].after(&list[n-2])
	}
	return list
}

// after has an attempt begin when the one before it was over: where there was no connection, its record does not say when it began.
func (f *Failed) after(before *Failed) {
	begun, ended := before.Start.Add(before.Duration), f.Start.Add(f.Duration)
	if begun.After(f.Start) && !begun.After(ended) {
		f.Start, f.Duration = begun, ended.Sub(begun)
	}
}

// hasFailed says whether Fail was called.
func (o *Open) hasFailed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// lastFailed is the last attempt as Envoy tells of it when it failed, made from the record of its request. ok is false where it did not fail,
// and where no backend was asked, because there was none to ask (UH): Envoy counts that as an attempt, but tells of none. reworded says
// that the status is Weir's, because the backend's answer was no answer under a good one.
func lastFailed(r *Record, reworded bool) (f Failed, ok bool) {
	f = Failed{Span: r.Trace.Span, N: r.Attempts, RequestID: r.RequestID, Backend: r.Backend, Endpoint: r.Endpoint, Flags: r.Flags}
	switch {
	case r.Aborted:
		return f, false // the caller went away
	case r.Details == wire.ViaUpstream:
		f.Status = r.Status
		ok = r.Status >= 400 && !reworded
	default:
		if lost(r.Details) && r.Status < 400 {
			f.Status = r.Status
		}
		switch FailureReason(&f) {
		case "connect", "timeout", "reset", "overflow":
			ok = true
		}
	}
	if _, why, found := strings.Cut(r.Details, "|"); found { // of "upstream_reset_before_response_started{remote_connection_failure|why}"
		f.Reason = strings.TrimSuffix(why, "}")
	}
	begun, ended := r.Timing.BackendSent, r.Duration
	if begun == 0 {
		begun = min(r.Timing.Received, ended)
	}
	if last := r.Timing.BackendLast; last > begun {
		ended = last
	}
	f.Start, f.Duration = r.Start.Add(begun), max(time.Duration(0), ended-begun)
	return f, ok
}
