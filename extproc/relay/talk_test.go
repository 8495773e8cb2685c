package relay

import "testing"

// TestHasEnd: the end of a stream is found however it comes in pieces, and nothing that a model says looks like it.
func TestHasEnd(t *testing.T) {
	for stream, want := range map[string]bool{
		"data: {\"choices\":[]}\n\ndata: [DONE]\n\n":                                                       true,
		"data: {\"choices\":[]}\r\n\r\ndata:[DONE]\r\n\r\n":                                                true,
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n":                                       true,
		"event: message_stop\ndata: {\"type\": \"message_stop\"  }\n\n":                                    true,
		"data: {\"choices\":[{\"delta\":{\"content\":\"data: [DONE]\"}}]}\n\n":                             false,
		"data: {\"choices\":[{\"delta\":{\"content\":\"\\ndata: [DONE]\\n\"}}]}\n\n":                       false,
		"data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\\"message_stop\\\"\"}}\n\n":       false,
		"data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"event: message_stop [DONE]\"}}\n\n": false,
	} {
		for size := 1; size <= len(stream); size++ {
			found := false
			for from := 0; from < len(stream); from += size {
				found = hasEnd([]byte(stream[:min(from+size, len(stream))]), from) || found
			}
			if found != want {
				t.Errorf("in pieces of %d bytes the end is found: %v, want %v: %q", size, found, want, stream)
			}
		}
	}
}
