// Package exchange is the seam between the HTTP server and the dialects: a dialect is a pure
// function from a Request to a Reply. Waiting, faults, chunking and recording happen in the server;
// what a provider would say happens in the dialects.
package exchange

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/test/sim/internal/tokens"
)

// Request is one HTTP request with its whole body, and what the simulated provider knows.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Header http.Header
	Body   []byte

	// Models are the model names the provider serves.
	Models []string
	// Key is the credential the provider accepts; "" accepts any that is not empty.
	Key string
	// Seed and Seq make ids and texts repeatable: Seq numbers the requests of a server. Realm keeps
	// the ids of different providers apart, since one conversation may visit several.
	Seed, Seq uint64
	Realm     string
	// Now is the server's time.
	Now time.Time
	// Cache remembers long prompts. It is the only state that requests share.
	Cache *tokens.Cache
}

// Reply is what the provider answers: either Body, or Frames for a stream.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
	// Frames are the events of a stream, one whole event each. They are made while they are read.
	Frames iter.Seq[Frame]
	// Tokens is the number of tokens in Body, which the server waits for.
	Tokens int
	// Summary is what was understood of the request.
	Summary Summary
	// Usage is what the reply bills, also when it is streamed.
	Usage Usage
}

// Frame is one event of a stream with the bytes that go on the wire.
type Frame struct {
	Data []byte
	// Tokens is how many output tokens the event carries; 0 for framing. Reasoning of them were thought, not said.
	Tokens, Reasoning int
}

// Usage are the billed tokens. Cached and CacheWritten are parts of Input, Reasoning is a part of Output.
type Usage struct {
	Input        int `json:"input"`
	Output       int `json:"output"`
	Cached       int `json:"cached"`
	CacheWritten int `json:"cache_written"`
	Reasoning    int `json:"reasoning"`
}

// Summary is the parsed request in brief, for the record.
type Summary struct {
	Model      string   `json:"model,omitempty"`
	Stream     bool     `json:"stream,omitempty"`
	Roles      []string `json:"roles,omitempty"`
	Tools      []string `json:"tools,omitempty"`
	ToolChoice string   `json:"tool_choice,omitempty"`
	Images     []string `json:"images,omitempty"`
	MaxTokens  int      `json:"max_tokens,omitempty"`
	// RepeatedKeys are the paths of JSON members that came twice; the last one won.
	RepeatedKeys []string `json:"repeated_keys,omitempty"`
	// Ignored are the paths of members that the real API silently ignores.
	Ignored []string `json:"ignored,omitempty"`
	// Error is the refusal, in the provider's words.
	Error string `json:"error,omitempty"`
}

// ID makes an identifier that is unique per request and part, and the same on every run.
func (r *Request) ID(prefix string, part int, length int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d/%d/%d", r.Realm, prefix, r.Seed, r.Seq, part))
	s := hex.EncodeToString(sum[:])
	if length > len(s) {
		length = len(s)
	}
	return prefix + s[:length]
}

// UUID makes an identifier in the form of a UUID, the same on every run.
func (r *Request) UUID() string {
	s := r.ID("", -1, 32)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// Has tells whether the provider serves a model.
func (r *Request) Has(model string) bool { return slices.Contains(r.Models, model) }

// Bearer returns the bearer token of the request, "" when there is none.
func (r *Request) Bearer() string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// Credential returns the credential that decides, for scopes that must not mix.
func (r *Request) Credential() string {
	if k := r.Header.Get("X-Api-Key"); k != "" {
		return k
	}
	return r.Bearer()
}

// IsJSON tells whether the content type of the body is JSON. A missing one counts as JSON.
func (r *Request) IsJSON() bool {
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	ct = strings.ToLower(strings.TrimSpace(ct))
	return ct == "" || ct == "application/json" || strings.HasSuffix(ct, "+json")
}

// JSON builds a plain reply. The value must be encodable; the dialects only pass their own structs.
func JSON(status int, v any) *Reply {
	b := Encode(v)
	return &Reply{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: b}
}

// Encode writes JSON the way the providers do: no HTML escapes, no trailing newline.
func Encode(v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("sim: a reply cannot be encoded: %v", err)) // a defect of a dialect, never of a request
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}
