// Package openai is the OpenAI Chat Completions dialect, both faces: what clients of OpenAI's SDKs
// speak, and what OpenAI, vLLM, SGLang, Qwen's compatible mode and their like are spoken to with.
//
// Source of the wire format: OpenAI's API reference and its published SDKs; for the deviations of
// compatible servers, those servers' documentation. One file per direction and subject:
//
//	inbound_request, inbound_messages   a client's request -> canon
//	inbound_response, inbound_stream, inbound_error   canon -> what the client reads
//	outbound_call, outbound_messages    canon -> a provider's request
//	outbound_response, outbound_stream, outbound_error   a provider's answer -> canon
//
// BuildCall writes only what OpenAI's own API accepts, because that API refuses fields it does not
// know: what only some compatible servers take (top_k, thinking budgets) is reported as dropped. A
// caller who speaks this dialect reaches such a server with every field untouched, since no
// translation takes place then.
package openai

import "github.com/weir-dev/weir/adapters/canon"

// name is the dialect's word in Backend.spec.dialect.
const name = "openai"

// Dialect describes the dialect for the catalog.
func Dialect() canon.Dialect {
	return canon.Dialect{
		Name: name,
		Root: "/v1",
		Endpoints: []canon.Endpoint{
			{Op: canon.OpChat, Method: "POST", Path: "/chat/completions"},
			{Op: canon.OpResponses, Method: "POST", Path: "/responses"},
			{Op: canon.OpEmbeddings, Method: "POST", Path: "/embeddings"},
			{Op: canon.OpCompletions, Method: "POST", Path: "/completions"},
			{Op: canon.OpModels, Method: "GET", Path: "/models"},
			{Op: canon.OpModel, Method: "GET", Path: "/models/{model}"},
		},
		In:  inbound{},
		Out: outbound{},
	}
}

// inbound and outbound hold nothing: all state of an exchange is in encoders and decoders.
type (
	inbound  struct{}
	outbound struct{}
)
