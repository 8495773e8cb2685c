// Package dashscope simulates Alibaba's DashScope: the native text and multimodal generation APIs.
// Its compatible mode is served by the openai package.
package dashscope

import (
	"net/http"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/openai"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

const (
	textPath       = "/api/v1/services/aigc/text-generation/generation"
	multimodalPath = "/api/v1/services/aigc/multimodal-generation/generation"
	compatible     = "/compatible-mode/v1"
)

// Provider is the host with its two faces.
type Provider struct{}

func compat() openai.Provider { return openai.Provider{Prefix: compatible, Qwen: true} }

func native(path string) bool { return !strings.HasPrefix(path, compatible+"/") }

// Serve answers one request.
func (p Provider) Serve(r *exchange.Request) *exchange.Reply {
	if !native(r.Path) {
		return compat().Serve(r)
	}
	rep, fail := p.route(r)
	if fail != nil {
		rep = refuse(r, fail)
	}
	rep.Header.Set("X-Request-Id", r.UUID())
	return rep
}

func (p Provider) route(r *exchange.Request) (*exchange.Reply, *failure) {
	switch key := r.Bearer(); {
	case key == "":
		return nil, &failure{401, "InvalidApiKey", "No API-key provided."}
	case r.Key != "" && key != r.Key:
		return nil, &failure{401, "InvalidApiKey", "Invalid API-key provided."}
	}
	if r.Path != textPath && r.Path != multimodalPath {
		return nil, &failure{404, "NotFound", "The requested path does not exist: " + r.Path}
	}
	if r.Method != http.MethodPost {
		return nil, &failure{405, "MethodNotAllowed", "Request method '" + r.Method + "' is not supported."}
	}
	if !r.IsJSON() {
		return nil, invalid("Content-Type must be application/json.")
	}
	body, repeated, err := jsontree.Parse(r.Body)
	if err != nil {
		return nil, invalid("Required body invalid, please check the request body format: %v", err)
	}
	want := textShape
	if r.Path == multimodalPath {
		want = multimodalShape
	}
	if bad := shape.Check(body, want); bad != nil {
		return nil, explain(bad)
	}
	name := body.Get("model").Str()
	if !r.Has(name) {
		return nil, &failure{404, "ModelNotFound", "Model not exist: " + name}
	}
	if Multimodal(name) != (r.Path == multimodalPath) {
		return nil, invalid("url error, please check url！") // the real one's words for a model in the wrong API
	}
	if fail := check(r, body); fail != nil {
		return nil, fail
	}
	c := read(r, body)
	rep := c.reply()
	rep.Summary.RepeatedKeys = repeated
	return rep, nil
}

// Multimodal tells by name whether a model lives under the multimodal path.
func Multimodal(model string) bool {
	for _, part := range []string{"-vl", "-omni", "qvq", "qwen3.5", "qwen3.6", "qwen3.7"} {
		if strings.Contains(model, part) {
			return true
		}
	}
	return false
}

// streaming tells whether a stream was asked for, which only this header does.
func streaming(r *exchange.Request) bool {
	return strings.EqualFold(r.Header.Get("X-Dashscope-Sse"), "enable")
}
