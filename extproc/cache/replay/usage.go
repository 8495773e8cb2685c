package replay

import (
	"bytes"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
	"github.com/weir-dev/weir/adapters/sse"
	"github.com/weir-dev/weir/extproc/cache"
)

// hides tells whether the usage may have to be taken out of an answer that is given on as it is. body is nil while it is still coming.
func hides(h *cache.Head, to *To, body []byte) bool {
	return h.Dialect == "openai" && h.Stream && h.Status/100 == 2 && h.Operation == canon.OpChat && !to.Reply.IncludeUsage &&
		(body == nil || bytes.Contains(body, []byte(`"usage"`)))
}

// maxHeld is the size, in bytes, from which an event is none that tells the usage: it is not waited for.
const maxHeld = 64 << 10

// hider takes the event that tells the usage out of a stream of OpenAI's and leaves every other byte as it is. What waits is an
// event that has begun, for its end. Its lines end with LF or CRLF.
type hider struct {
	held    []byte
	passing bool // an event that is too long to be held is under way
}

// feed appends to dst what is due of a piece, cut anywhere.
func (h *hider) feed(dst, piece []byte) []byte {
	if len(h.held) > 0 {
		h.held = append(h.held, piece...)
		piece = h.held
	}
	for len(piece) > 0 {
		end := eventEnd(piece)
		if end == 0 {
			break
		}
		if h.passing || !isUsage(piece[:end]) {
			dst = append(dst, piece[:end]...)
		}
		h.passing = false
		piece = piece[end:]
	}
	if len(piece) > maxHeld || h.passing && len(piece) > len("\n\r") {
		// The last bytes stay: the end of the event may be cut in two.
		h.passing = true
		cut := len(piece) - len("\n\r")
		dst = append(dst, piece[:cut]...)
		piece = piece[cut:]
	}
	h.held = append(h.held[:0], piece...) // which may be its own end
	return dst
}

// end appends what is still held.
func (h *hider) end(dst []byte) []byte {
	dst = append(dst, h.held...)
	h.held = h.held[:0]
	return dst
}

// eventEnd is the length of the first event with its blank line; 0 where it has not ended.
func eventEnd(b []byte) int {
	for at := 0; ; {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return 0
		}
		at += n + 1
		switch {
		case bytes.HasPrefix(b[at:], []byte("\n")):
			return at + 1
		case bytes.HasPrefix(b[at:], []byte("\r\n")):
			return at + 2
		}
	}
}

// isUsage tells whether an event has no choices and a usage.
func isUsage(event []byte) bool {
	if !bytes.Contains(event, []byte(`"usage"`)) {
		return false
	}
	found := false
	var r sse.Reader
	r.Feed(event, func(ev sse.Event) {
		if jsonx.Check(ev.Data) != nil {
			return
		}
		root := jsonx.Root(ev.Data)
		choices := root.Get("choices")
		found = choices.Kind() == jsonx.Array && choices.Len() == 0 && root.Get("usage").Kind() == jsonx.Object
	})
	return found
}
