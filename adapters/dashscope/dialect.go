// Package dashscope speaks the native text-generation API of Alibaba's DashScope (Model Studio), the
// home of the Qwen models, to providers. Clients of that API are not served here.
//
// Everything here is a pure function of its arguments: no I/O, no clock, no state between calls.
// README.md lists what each field becomes.
//
// Source of the wire format: the DashScope API reference and Alibaba's own Python SDK 2.0.
package dashscope

import (
	"strconv"
	"strings"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// The two generation services, relative to a base URL that ends in /api/v1. Each model is bound to
// one of them; the other answers "url error".
const (
	textPath       = "/services/aigc/text-generation/generation"
	multimodalPath = "/services/aigc/multimodal-generation/generation"
)

// Dialect describes DashScope's native API for the catalog.
func Dialect() canon.Dialect {
	return canon.Dialect{
		Name: "dashscope",
		Root: "/api/v1",
		Endpoints: []canon.Endpoint{
			{Op: canon.OpChat, Method: "POST", Path: textPath},
			{Op: canon.OpChat, Method: "POST", Path: multimodalPath},
		},
		Out: outbound{},
	}
}

type outbound struct{}

// Credentials implements canon.Outbound.
func (outbound) Credentials(key string) []canon.Credential {
	return []canon.Credential{{Name: "authorization", Value: "Bearer " + key}}
}

// SetModel implements canon.Outbound.
func (outbound) SetModel(body []byte, model string) ([]byte, *canon.Error) {
	out, err := jsonx.SetString(body, "model", model)
	if err != nil {
		return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Message: err.Error(), Param: "model"}
	}
	return out, nil
}

// traits says what a Qwen model is, as far as its name tells.
type traits struct {
	// multimodal: it is served at multimodalPath, for text as well.
	multimodal bool
	// thinks: it thinks unless told not to, with or without streaming.
	thinks bool
	// streamThinks: it thinks unless told not to, and cannot without streaming (the open-weight
	// hybrids: qwen3-8b, qwen3-235b-a22b).
	streamThinks bool
}

func traitsOf(model string) traits {
	m := strings.ToLower(model)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(m, w) {
				return true
			}
		}
		return false
	}
	var t traits
	t.multimodal = has("-vl", "qvq", "omni", "-ocr")
	if rest, ok := strings.CutPrefix(m, "qwen3."); ok {
		// qwen3.5-plus and -flash began to see; of the -max models 3.8 is the first.
		digits, size, _ := strings.Cut(rest, "-")
		if n, err := strconv.Atoi(digits); err == nil && n >= 5 {
			t.thinks = true
			t.multimodal = t.multimodal || !strings.HasPrefix(size, "max") || n >= 8
		}
	}
	if rest, ok := strings.CutPrefix(m, "qwen3-"); ok {
		size, _, _ := strings.Cut(rest, "-")
		digits, ok := strings.CutSuffix(size, "b")
		_, err := strconv.ParseFloat(digits, 64) // qwen3-0.6b
		t.streamThinks = ok && err == nil && !has("instruct", "thinking", "coder")
	}
	return t
}
