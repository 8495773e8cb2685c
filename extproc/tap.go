package extproc

import (
	"strings"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/weir-dev/weir/extproc/content"
)

// captureMemory is how many bytes of text all requests under way may hold together. What comes when it is used up is not captured.
const captureMemory = 64 << 20

// capture begins to collect the text of a request that was let in, where its gateway wants it and its trace will be exported.
func (s *Server) capture(a *asked, d *decision) {
	rule := a.table.Captures[a.gateway]
	if rule == nil || !a.trace.Sampled || d.dry != nil || !s.opts.Capturing() {
		return
	}
	if d.content = content.New(rule, a.dialect, a.operation, a.model, s.captured); d.content != nil {
		d.open.Capture(d.content)
	}
}

// tap shows an answer in the caller's dialect to whoever captures its text. Envoy keeps every piece until it is told to go on, and
// sends what it has kept: no byte of it can change here.
type tap struct {
	content *content.Capture
	over    bool                          // the answer passes by
	goOn    *extprocv3.ProcessingResponse // the same for each piece; nil before the first
}

// onHeaders lets answers pass by that hold no text or that cannot be read.
func (t *tap) onHeaders(h *extprocv3.HttpHeaders) *extprocv3.ProcessingResponse {
	status, contentType, encoded := "", "", false
	for _, kv := range h.GetHeaders().GetHeaders() {
		switch v := value(kv); kv.GetKey() {
		case ":status":
			status = v
		case "content-type":
			contentType = v
		case "content-encoding":
			encoded = v != "" && !strings.EqualFold(v, "identity")
		}
	}
	stream := strings.HasPrefix(contentType, "text/event-stream")
	switch {
	case !strings.HasPrefix(status, "2") || h.GetEndOfStream(): // what a backend says of an error is no text of a model
		t.over = true
	case encoded || !stream && !isJSON(contentType) || !t.content.Tap(stream):
		t.content.Unreadable()
		t.over = true
	}
	if t.over {
		return untouched()
	}
	resp := untouched()
	if stream {
		resp.ModeOverride.ResponseBodyMode = filterv3.ProcessingMode_STREAMED
	} else {
		// Envoy keeps its length, and gives of one that is larger than its buffers the beginning, and lets the rest pass by.
		resp.ModeOverride.ResponseBodyMode = filterv3.ProcessingMode_BUFFERED_PARTIAL
	}
	return resp
}

// onBody lets a piece go on.
func (t *tap) onBody(b *extprocv3.HttpBody) *extprocv3.ProcessingResponse {
	if !t.over {
		t.content.Chunk(b.GetBody(), b.GetEndOfStream())
	}
	if t.goOn == nil {
		t.goOn = bodyResponse(&extprocv3.CommonResponse{})
	}
	return t.goOn
}

// onTrailers lets trailers go on. They are not asked for.
func (t *tap) onTrailers() *extprocv3.ProcessingResponse { return trailers() }
