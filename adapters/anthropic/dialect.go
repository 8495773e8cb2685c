// Package anthropic speaks Anthropic's Messages API, to clients and to providers.
//
// Everything here is a pure function of its arguments: no I/O, no clock, no state between calls.
// Calls are made with version 2023-06-01 of the API, because 2026-10-21 refuses temperature, top_p
// and top_k even at their default values. README.md lists what each field becomes.
//
// Source of the wire format: platform.claude.com/docs/en/api/messages and Anthropic's own SDKs.
package anthropic

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// name is the dialect's name, and the Origin of the thinking it signed.
const name = "anthropic"

// apiVersion is the version of the API that BuildCall's bodies are written for.
const apiVersion = "2023-06-01"

// messagesPath is where a chat goes, relative to a base URL without /v1.
const messagesPath = "/v1/messages"

// redactedPrefix marks the Signature of a part that came as a redacted_thinking block: encrypted
// reasoning without a readable text. A signature is base64, which has no colon, so that the two
// cannot be confused.
const redactedPrefix = "redacted:"

// Dialect describes the Messages API for the catalog.
func Dialect() canon.Dialect {
	return canon.Dialect{
		Name:   name,
		Header: "anthropic-version",
		Endpoints: []canon.Endpoint{
			{Op: canon.OpChat, Method: "POST", Path: messagesPath},
			{Op: canon.OpCountTokens, Method: "POST", Path: messagesPath + "/count_tokens"},
			{Op: canon.OpModels, Method: "GET", Path: "/v1/models"},
			{Op: canon.OpModel, Method: "GET", Path: "/v1/models/{model}"},
		},
		In:  inbound{},
		Out: outbound{},
	}
}

type inbound struct{}

type outbound struct{}

// Credentials implements canon.Outbound. Version 2023-06-01 takes the key in x-api-key; a Bearer belongs to the
// later version, which the official SDKs send now.
func (outbound) Credentials(key string) []canon.Credential {
	return []canon.Credential{
		{Name: "x-api-key", Value: key, Versions: keyHeaderVersions},
		{Name: "authorization", Value: "Bearer " + key},
	}
}

// keyHeaderVersions are the API versions of before 2026-10-21, which wants a bearer token.
var keyHeaderVersions = []string{"2023-01-01", "2023-06-01"}

// SetModel implements canon.Outbound.
func (outbound) SetModel(body []byte, model string) ([]byte, *canon.Error) {
	out, err := jsonx.SetString(body, "model", model)
	if err != nil {
		return nil, &canon.Error{Kind: canon.ErrInvalidRequest, Message: err.Error(), Param: "model"}
	}
	return out, nil
}

// validName reports whether s fits ^[a-zA-Z0-9_-]{1,limit}$, Anthropic's rule for tool names
// (limit 128) and tool call ids (no limit: 0).
func validName(s string, limit int) bool {
	if s == "" || limit > 0 && len(s) > limit {
		return false
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return false
		}
	}
	return true
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// maxToolName is the longest tool name that Anthropic takes, in bytes.
const maxToolName = 128

// imageTypes are the media types that Anthropic reads.
var imageTypes = [...]string{"image/jpeg", "image/png", "image/gif", "image/webp"}

func knownImageType(t string) bool {
	for _, known := range imageTypes {
		if t == known {
			return true
		}
	}
	return false
}
