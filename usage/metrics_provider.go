package usage

import (
	"strings"
	"sync/atomic"

	"github.com/weir-dev/weir/usage/ledger"
)

// providers are the values of gen_ai.provider.name that the OpenTelemetry conventions have, by the end of the host that serves them.
// Alibaba's service has none there.
var providers = []struct{ host, name string }{
	{"openai.azure.com", "azure.ai.openai"},
	{"services.ai.azure.com", "azure.ai.inference"},
	{"api.openai.com", "openai"},
	{"api.anthropic.com", "anthropic"},
	{"amazonaws.com", "aws.bedrock"},
	{"generativelanguage.googleapis.com", "gcp.gemini"},
	{"aiplatform.googleapis.com", "gcp.vertex_ai"},
	{"api.deepseek.com", "deepseek"},
	{"api.mistral.ai", "mistral_ai"},
	{"api.x.ai", "x_ai"},
	{"api.groq.com", "groq"},
	{"api.cohere.com", "cohere"},
	{"api.cohere.ai", "cohere"},
	{"api.moonshot.ai", "moonshot_ai"},
	{"api.moonshot.cn", "moonshot_ai"},
	{"api.perplexity.ai", "perplexity"},
	{"aliyuncs.com", ProviderDashScope},
}

// ProviderDashScope is gen_ai.provider.name of Alibaba Cloud's Model Studio. The conventions have no value for it.
const ProviderDashScope = "alibaba_cloud.dashscope"

// Provider is gen_ai.provider.name of a backend, by its host and the dialect that it speaks. One's own servers go by the dialect, as the
// conventions want it for whatever is compatible with a provider.
func Provider(dialect, host string) string {
	host, _, _ = strings.Cut(host, ":")
	host = strings.ToLower(host)
	for _, p := range providers {
		if rest, ok := strings.CutSuffix(host, p.host); ok && (rest == "" || strings.HasSuffix(rest, ".") || strings.HasSuffix(rest, "-")) {
			return p.name
		}
	}
	if dialect == "dashscope" {
		return ProviderDashScope
	}
	return dialect
}

// providersOf has the providers of the backends that the configuration knows.
type providersOf struct {
	atomic.Pointer[map[string]string]
}

// of is the provider of the backend that answered a request, or was asked last.
func (p *providersOf) of(e *ledger.Entry) string {
	if m := p.Load(); m != nil {
		if name := (*m)[e.Backend]; name != "" {
			return name
		}
	}
	return Provider(e.Dialect, "") // of a backend that is gone since
}
