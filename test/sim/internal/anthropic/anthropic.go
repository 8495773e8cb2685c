// Package anthropic simulates Anthropic's HTTP API: messages, token counting and models, under both
// API versions (2023-06-01 and 2026-10-21).
package anthropic

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
	"github.com/weir-dev/weir/test/sim/internal/shape"
)

// The API versions.
const (
	version2023 = "2023-06-01"
	version2026 = "2026-10-21"
)

// Provider is the API under /v1.
type Provider struct{}

// Serve answers one request.
func (p Provider) Serve(r *exchange.Request) *exchange.Reply {
	rep, fail := p.route(r)
	if fail != nil {
		rep = p.refuse(r, fail)
	}
	rep.Header.Set("Request-Id", requestID(r))
	rep.Header.Set("Anthropic-Organization-Id", "00000000-0000-0000-0000-000000000000")
	if fail == nil && r.Method == http.MethodPost {
		limits(rep, r.Now)
	}
	return rep
}

func requestID(r *exchange.Request) string { return r.ID("req_", 0, 24) }

// limits sets the rate headers: buckets that only this request has drawn from, full again in a second.
func limits(rep *exchange.Reply, now time.Time) {
	reset := now.Add(time.Second).UTC().Format(time.RFC3339)
	for _, l := range []struct {
		name        string
		limit, used int
	}{
		{"requests", 4000, 1},
		{"tokens", 2400000, rep.Usage.Input + rep.Usage.Output},
		{"input-tokens", 2000000, rep.Usage.Input},
		{"output-tokens", 400000, rep.Usage.Output},
	} {
		h := "Anthropic-Ratelimit-" + l.name + "-"
		rep.Header.Set(h+"Limit", strconv.Itoa(l.limit))
		rep.Header.Set(h+"Remaining", strconv.Itoa(l.limit-l.used))
		rep.Header.Set(h+"Reset", reset)
	}
}

func (p Provider) route(r *exchange.Request) (*exchange.Reply, *failure) {
	version, fail := authenticate(r)
	if fail != nil {
		return nil, fail
	}
	if r.Path == "/v1/models" || strings.HasPrefix(r.Path, "/v1/models/") {
		if r.Method != http.MethodGet {
			return nil, &failure{405, "invalid_request_error", "Method Not Allowed"}
		}
		return models(r, strings.TrimPrefix(strings.TrimPrefix(r.Path, "/v1/models"), "/"))
	}
	count := r.Path == "/v1/messages/count_tokens"
	if r.Path != "/v1/messages" && !count {
		return nil, &failure{404, "not_found_error", "Not Found: " + r.Path}
	}
	if r.Method != http.MethodPost {
		return nil, &failure{405, "invalid_request_error", "Method Not Allowed"}
	}
	if !r.IsJSON() {
		return nil, invalid("content-type: the body must be application/json")
	}
	body, repeated, err := jsontree.Parse(r.Body)
	if err != nil {
		return nil, invalid("The request body is not valid JSON: %v", err)
	}
	want := messagesFields
	if count {
		want = countFields
	}
	if bad := shape.Check(body, shape.Object(slices.Concat(want, betaFields(r))...)); bad != nil {
		return nil, explain(bad)
	}
	if fail := checkMessages(r, body, version); fail != nil {
		return nil, fail
	}
	if !r.Has(body.Get("model").Str()) {
		return nil, &failure{404, "not_found_error", "model: " + body.Get("model").Str()}
	}
	c := read(r, body)
	rep := countReply(c)
	if !count {
		rep = c.reply()
	}
	rep.Summary.RepeatedKeys = repeated
	return rep, nil
}

// authenticate checks the credential and the version header. Under the newer version the key is a
// bearer token only. Two different credentials at once are refused: one of them is a caller's key
// that should never have arrived.
func authenticate(r *exchange.Request) (version string, f *failure) {
	key, bearer := r.Header.Get("X-Api-Key"), r.Bearer()
	version = r.Header.Get("Anthropic-Version")
	switch {
	case key == "" && bearer == "":
		return "", &failure{401, "authentication_error", "x-api-key header is required"}
	case version == version2026 && bearer == "":
		return "", &failure{401, "authentication_error", "Authorization header with a bearer token is required under anthropic-version " + version2026}
	case key != "" && bearer != "" && key != bearer:
		return "", &failure{401, "authentication_error", "more than one credential: send either x-api-key or Authorization"}
	case r.Key != "" && key != "" && key != r.Key, r.Key != "" && bearer != "" && bearer != r.Key:
		return "", &failure{401, "authentication_error", "invalid x-api-key"}
	case version == "":
		return "", invalid("anthropic-version: header is required")
	case version != version2023 && version != version2026:
		return "", invalid("anthropic-version: %q is not a valid version", version)
	}
	return version, nil
}

// betaFields are the fields that an anthropic-beta header opens.
func betaFields(r *exchange.Request) []shape.Field {
	var out []shape.Field
	for _, v := range r.Header.Values("Anthropic-Beta") {
		if strings.Contains(v, "context-management-") {
			out = append(out, shape.May("context_management", shape.Loose()))
		}
		if strings.Contains(v, "mcp-client-") {
			out = append(out, shape.May("mcp_servers", shape.List(shape.Loose(), 0)))
		}
	}
	return out
}

type modelObject struct {
	Type      string `json:"type"`
	ID        string `json:"id"`
	Name      string `json:"display_name"`
	CreatedAt string `json:"created_at"`
}

func models(r *exchange.Request, id string) (*exchange.Reply, *failure) {
	one := func(m string) modelObject {
		return modelObject{"model", m, strings.ReplaceAll(m, "-", " "), "2026-01-01T00:00:00Z"}
	}
	if id != "" {
		if !r.Has(id) {
			return nil, &failure{404, "not_found_error", "model: " + id}
		}
		return exchange.JSON(200, one(id)), nil
	}
	limit := 20
	if s := r.Query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return nil, invalid("limit: Input should be an integer from 1 to 1000")
		}
		limit = n
	}
	list := r.Models
	if after := r.Query.Get("after_id"); after != "" {
		list = list[slices.Index(list, after)+1:]
	}
	var out struct {
		Data  []modelObject `json:"data"`
		More  bool          `json:"has_more"`
		First *string       `json:"first_id"`
		Last  *string       `json:"last_id"`
	}
	out.More = len(list) > limit
	out.Data = []modelObject{}
	for _, m := range list[:min(limit, len(list))] {
		out.Data = append(out.Data, one(m))
	}
	if n := len(out.Data); n > 0 {
		out.First, out.Last = &out.Data[0].ID, &out.Data[n-1].ID
	}
	return exchange.JSON(200, out), nil
}
