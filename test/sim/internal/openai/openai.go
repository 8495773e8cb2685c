// Package openai simulates OpenAI's HTTP API: chat completions, responses, embeddings and models.
// The same code serves Alibaba's compatible mode, which is OpenAI's format with extras.
package openai

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// Provider is one face of the API.
type Provider struct {
	// Prefix is the path before /chat/completions: "/v1", or "/compatible-mode/v1".
	Prefix string
	// Qwen switches to the compatible mode of Alibaba: its extra fields, its error codes, reasoning_content.
	Qwen bool
}

// Serve answers one request.
func (p Provider) Serve(r *exchange.Request) *exchange.Reply {
	rep, fail := p.route(r)
	if fail != nil {
		rep = p.refuse(r, fail)
	}
	h := rep.Header
	h.Set("X-Request-Id", r.ID("req_", 0, 32))
	if !p.Qwen {
		h.Set("Openai-Version", "2020-10-01")
		h.Set("Openai-Organization", "sim")
		if fail == nil && r.Method == http.MethodPost {
			// A bucket that this request alone has drawn from, full again within a second.
			used := rep.Usage.Input + rep.Usage.Output
			h.Set("X-Ratelimit-Limit-Requests", "10000")
			h.Set("X-Ratelimit-Remaining-Requests", "9999")
			h.Set("X-Ratelimit-Reset-Requests", "6ms")
			h.Set("X-Ratelimit-Limit-Tokens", "30000000")
			h.Set("X-Ratelimit-Remaining-Tokens", strconv.Itoa(30000000-used))
			h.Set("X-Ratelimit-Reset-Tokens", "120ms")
		}
	}
	return rep
}

func (p Provider) route(r *exchange.Request) (*exchange.Reply, *failure) {
	if fail := p.authenticate(r); fail != nil {
		return nil, fail
	}
	path, ok := strings.CutPrefix(r.Path, p.Prefix)
	if !ok {
		return nil, p.noRoute(r)
	}
	if path == "/models" || strings.HasPrefix(path, "/models/") {
		if r.Method != http.MethodGet {
			return nil, p.badMethod(r)
		}
		return p.models(r, strings.TrimPrefix(strings.TrimPrefix(path, "/models"), "/"))
	}
	var serve func(*exchange.Request, *jsontree.Node, []string) (*exchange.Reply, *failure)
	var want *shape.Type
	switch path {
	case "/chat/completions":
		serve, want = p.chat, chatShape
		if p.Qwen {
			want = qwenShape
		}
	case "/embeddings":
		serve, want = p.embeddings, embeddingsShape
	case "/responses":
		serve, want = p.responses, responsesShape
		if r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			// The Codex CLI tries a WebSocket first and falls back at once on this status.
			return nil, &failure{status: http.StatusUpgradeRequired, kind: invalid, message: "WebSocket is not offered here: send a POST request."}
		}
	default:
		return nil, p.noRoute(r)
	}
	if r.Method != http.MethodPost {
		return nil, p.badMethod(r)
	}
	if !r.IsJSON() {
		return nil, &failure{status: http.StatusUnsupportedMediaType, kind: invalid,
			message: "Unsupported content type: send the body as 'application/json'."}
	}
	body, repeated, err := jsontree.Parse(r.Body)
	if err != nil {
		return nil, &failure{status: 400, kind: invalid, message: "We could not parse the JSON body of your request. " +
			"(HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload: " + err.Error() + ".)"}
	}
	if bad := shape.Check(body, want); bad != nil {
		return nil, explain(bad)
	}
	rep, fail := serve(r, body, repeated)
	if rep != nil {
		rep.Summary.RepeatedKeys = repeated
	}
	return rep, fail
}

// authenticate accepts bearer tokens only.
func (p Provider) authenticate(r *exchange.Request) *failure {
	key := r.Bearer()
	if key == "" {
		f := &failure{status: 401, kind: invalid, message: "You didn't provide an API key. You need to provide your API key in an " +
			"Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."}
		if p.Qwen {
			f.code = "invalid_api_key"
		}
		return f
	}
	if r.Key != "" && key != r.Key {
		return &failure{status: 401, kind: invalid, code: "invalid_api_key", message: "Incorrect API key provided."}
	}
	return nil
}

func (p Provider) noRoute(r *exchange.Request) *failure {
	return &failure{status: 404, kind: invalid, message: "Invalid URL (" + r.Method + " " + r.Path + ")"}
}

func (p Provider) badMethod(r *exchange.Request) *failure {
	return &failure{status: 405, kind: invalid, message: "Not allowed to " + r.Method + " on " + r.Path + ".", code: "method_not_supported"}
}

// known checks the model name.
func (p Provider) known(r *exchange.Request, model string) *failure {
	if r.Has(model) {
		return nil
	}
	return &failure{status: 404, kind: invalid, code: "model_not_found",
		message: "The model `" + model + "` does not exist or you do not have access to it."}
}

type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

// modelsCreated is the same for every model: 2025-01-01.
const modelsCreated = 1735689600

func (p Provider) models(r *exchange.Request, id string) (*exchange.Reply, *failure) {
	owner := "openai"
	if p.Qwen {
		owner = "alibaba"
	}
	if id != "" {
		if fail := p.known(r, id); fail != nil {
			return nil, fail
		}
		return exchange.JSON(200, modelObject{id, "model", modelsCreated, owner}), nil
	}
	list := make([]modelObject, 0, len(r.Models))
	for _, m := range r.Models {
		list = append(list, modelObject{m, "model", modelsCreated, owner})
	}
	return exchange.JSON(200, map[string]any{"object": "list", "data": list}), nil
}
