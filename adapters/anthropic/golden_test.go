package anthropic

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/internal/adaptertest"
)

func TestParseRequestGolden(t *testing.T) {
	adaptertest.Folder(t, "parse", func(t *testing.T, in []byte) string {
		req, err := inbound{}.ParseRequest(in)
		if err != nil {
			return fmt.Sprintf("error param=%s code=%s\n%s", err.Param, err.Code, err.Message)
		}
		text, jsonErr := json.MarshalIndent(req, "", "  ")
		if jsonErr != nil {
			t.Fatal(jsonErr)
		}
		return string(text)
	})
}

// The input is the model on a line of its own, then a canon.Request as JSON.
func TestBuildCallGolden(t *testing.T) {
	adaptertest.Folder(t, "call", func(t *testing.T, in []byte) string {
		model, body, _ := strings.Cut(string(in), "\n")
		req := &canon.Request{}
		if err := json.Unmarshal([]byte(body), req); err != nil {
			t.Fatal(err)
		}
		before, _ := json.Marshal(req)
		call, err := outbound{}.BuildCall(req, canon.CallOptions{Model: model})
		if after, _ := json.Marshal(req); string(after) != string(before) {
			t.Error("BuildCall changed the request")
		}
		if err != nil {
			return fmt.Sprintf("error %s param=%s\n%s", err.Kind, err.Param, err.Message)
		}
		return fmt.Sprintf("POST %s\nheaders %v\ndropped %v\n%s", call.Path, call.Headers, call.Dropped, adaptertest.Indent(t, call.Body))
	})
}

func TestStreamEncoderGolden(t *testing.T) {
	adaptertest.Folder(t, "encode", func(t *testing.T, in []byte) string {
		out := encode(adaptertest.Script(t, string(in)), true)
		checkStream(t, out)
		return string(out)
	})
}

func TestStreamDecoderGolden(t *testing.T) {
	adaptertest.Folder(t, "decode", func(t *testing.T, in []byte) string {
		stream := append(in, "\n\n"...)
		whole := decode(t, stream)
		for cut := range stream {
			if got := decode(t, stream[:cut], stream[cut:]); got != whole {
				t.Fatalf("cut at %d gives\n%s\nuncut\n%s", cut, got, whole)
			}
		}
		adaptertest.CheckOrder(t, whole)
		return whole + adaptertest.Ending(t, outbound{}.NewStreamDecoder, stream)
	})
}

func TestParseResponseGolden(t *testing.T) {
	adaptertest.Folder(t, "response", func(t *testing.T, in []byte) string {
		r, err := outbound{}.ParseResponse(in)
		if err != nil {
			return fmt.Sprintf("error %s code=%s\n%s", err.Kind, err.Code, err.Message)
		}
		text, _ := json.MarshalIndent(r, "", "  ")
		// And back out to an Anthropic caller.
		return string(text) + "\n\n" + adaptertest.Indent(t, inbound{}.AppendResponse(nil, r, testReply))
	})
}
