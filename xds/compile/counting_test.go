package compile

import (
	"strings"
	"testing"

	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/extproc/table"
	"github.com/weir-dev/weir/extproc/wire"
)

// TestDoorOfEachGateway: each gateway's listeners have what it says of usage and of proxies in front, and say who they
// are where there are several.
func TestDoorOfEachGateway(t *testing.T) {
	const gateway = "\n---\napiVersion: weir.dev/v1alpha1\nkind: LLMGateway\nmetadata: {name: NAME}\nspec:\n  listeners: [{name: http, port: PORT}]\n"
	rest := goldens(t)["minimal"]
	one := strings.NewReplacer("NAME", "one", "PORT", "9001").Replace(gateway) + "  authentication: {trustedHops: 3}\n  accounting: {streamUsage: AsIs}\n"
	for documents, want := range map[string]map[string][3]any{
		rest:       {"main": {true, uint32(0), ""}},
		rest + one: {"main": {true, uint32(0), "default/main"}, "one": {false, uint32(3), "default/one"}},
	} {
		v, problems := Compile(load(t, documents), options(t))
		if v == nil {
			t.Fatal(problems)
		}
		for name, w := range want {
			var hcm hcmv3.HttpConnectionManager
			filters := v.Listeners["gateway/default/"+name+"/http"].GetFilterChains()[0].GetFilters()
			if err := filters[len(filters)-1].GetTypedConfig().UnmarshalTo(&hcm); err != nil {
				t.Fatal(err)
			}
			var lua luav3.Lua
			var decide extprocfilterv3.ExternalProcessor
			for _, f := range hcm.GetHttpFilters() {
				switch f.GetName() {
				case "weir.peek":
					must(t, f.GetTypedConfig().UnmarshalTo(&lua))
				case "weir.decide":
					must(t, f.GetTypedConfig().UnmarshalTo(&decide))
				}
			}
			asks := strings.Contains(lua.GetDefaultSourceCode().GetInlineString(), "envoy_on_response")
			said := ""
			for _, m := range decide.GetGrpcService().GetInitialMetadata() {
				if m.GetKey() == wire.GatewayMetadata {
					said += m.GetValue()
				}
			}
			if got := [3]any{asks, hcm.GetXffNumTrustedHops(), said}; got != w {
				t.Errorf("%s of %d gateways: asks for usage, trusted hops, name: %v, want %v", name, len(want), got, w)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCountAs(t *testing.T) {
	for dialects, want := range map[string]string{
		"openai": "OPENAI_CHAT_COMPLETIONS", "openai openai": "OPENAI_CHAT_COMPLETIONS", "anthropic": "ANTHROPIC_MESSAGES",
		"openai anthropic": "", "anthropic dashscope": "", "dashscope": "",
	} {
		var in []member
		for name := range strings.FieldsSeq(dialects) {
			in = append(in, member{Candidate: &table.Candidate{Backend: &table.Backend{Dialect: &canon.Dialect{Name: name}}}})
		}
		got := ""
		if config := countAs(in)[countFilter]; config != nil {
			got = config.String()
		}
		if got == "" != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %s", dialects, got, want)
		}
	}
}
