package compile

import (
	"slices"

	aiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ai_protocol_manager/v3"
	llmv3 "github.com/envoyproxy/go-control-plane/envoy/type/ai/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/extproc/wire"
)

// countFilter is the name of the filter that reads the usage out of answers.
const countFilter = "weir.count"

// How much of an answer is read for its usage. What is larger passes as well, and is counted by an estimate. Envoy's own
// limits lose what long generations and batches of embeddings used.
const (
	maxCountedJSON   = 10 << 20 // bytes; Envoy takes no more
	maxCountedEvent  = 10 << 20 // bytes, no more either; the last event of OpenAI's Responses repeats the whole answer
	maxCountedEvents = 1 << 31  // of a stream; a chunk of OpenAI is a token or more
)

// tokenUsage makes Envoy read the usage that backends report, and leave every byte as it is. The result is typed metadata,
// which the access log carries.
func tokenUsage() *aiv3.AiProtocolManager {
	return &aiv3.AiProtocolManager{ResponseHandling: &aiv3.ResponseHandling{TokenUsage: &aiv3.TokenUsageExtraction{
		IncludeUnconfiguredRoutes: true,
		MetadataNamespace:         wire.TokenUsageNamespace,
		Limits: &aiv3.TokenUsageExtractionLimits{
			MaxJsonBodySize:    wrapperspb.UInt32(maxCountedJSON),
			MaxSseEventSize:    wrapperspb.UInt32(maxCountedEvent),
			MaxParsedSseEvents: wrapperspb.UInt32(maxCountedEvents),
		},
	}}}
}

// protocols are the formats of usage by dialect. The embeddings and the legacy completions of OpenAI, and its Responses, have
// the fields of its chat. Answers of other dialects are all translated, and counted by that.
var protocols = map[string]llmv3.LLMProtocol{
	"openai":    llmv3.LLMProtocol_OPENAI_CHAT_COMPLETIONS,
	"anthropic": llmv3.LLMProtocol_ANTHROPIC_MESSAGES,
}

// countAs says in which format the answers of a route report usage, where all its backends speak one dialect. Elsewhere
// Envoy tells by the answer: only chat has backends of several dialects, and its answers name what they are.
func countAs(in []member) map[string]*anypb.Any {
	dialect := in[0].Backend.Dialect.Name
	protocol, ok := protocols[dialect]
	if !ok || slices.ContainsFunc(in, func(m member) bool { return m.Backend.Dialect.Name != dialect }) {
		return nil
	}
	return map[string]*anypb.Any{countFilter: pack(&aiv3.AiProtocolManagerPerRoute{
		Response: &aiv3.ResponsePerRoute{LlmProtocol: protocol},
	})}
}

// asksForUsage says whether a gateway asks for the usage of streams in its callers' place.
func asksForUsage(g *v1alpha1.LLMGateway) bool {
	return g.Spec.Accounting.StreamUsage != v1alpha1.StreamUsageAsIs
}

// script is the Lua of the door: what it knows of the configuration, and the pieces that it needs. What looks at answers is there only
// where the usage of streams is asked for in their callers' place, or where there are lanes: to be called and find nothing to do costs
// 4 microseconds an answer.
func script(askForUsage bool, laneFile string) string {
	out := ""
	if askForUsage {
		out += "local ASK_FOR_USAGE = true\n"
	}
	if laneFile != "" {
		out += laneConstants(laneFile)
	}
	out += jsonSource
	if laneFile != "" {
		out += laneSource
	}
	out += peekSource
	if askForUsage {
		out += hideSource
	}
	return out
}
