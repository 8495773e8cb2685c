package usage

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
)

// flagNames writes Envoy's response flags as its text logs do: "UF,URX"; "" for none.
func flagNames(f *accesslogv3.ResponseFlags) string {
	if f == nil {
		return ""
	}
	var out []string
	for _, x := range [...]struct {
		set  bool
		name string
	}{
		{f.GetFailedLocalHealthcheck(), "LH"}, {f.GetNoHealthyUpstream(), "UH"}, {f.GetUpstreamRequestTimeout(), "UT"}, {f.GetLocalReset(), "LR"},
		{f.GetUpstreamRemoteReset(), "UR"}, {f.GetUpstreamConnectionFailure(), "UF"}, {f.GetUpstreamConnectionTermination(), "UC"},
		{f.GetUpstreamOverflow(), "UO"}, {f.GetNoRouteFound(), "NR"}, {f.GetDelayInjected(), "DI"}, {f.GetFaultInjected(), "FI"}, {f.GetRateLimited(), "RL"},
		{f.GetUnauthorizedDetails() != nil, "UAEX"}, {f.GetRateLimitServiceError(), "RLSE"}, {f.GetDownstreamConnectionTermination(), "DC"},
		{f.GetUpstreamRetryLimitExceeded(), "URX"}, {f.GetStreamIdleTimeout(), "SI"}, {f.GetInvalidEnvoyRequestHeaders(), "IH"},
		{f.GetDownstreamProtocolError(), "DPE"}, {f.GetUpstreamMaxStreamDurationReached(), "UMSDR"}, {f.GetResponseFromCacheFilter(), "RFCF"},
		{f.GetNoFilterConfigFound(), "NFCF"}, {f.GetDurationTimeout(), "DT"}, {f.GetUpstreamProtocolError(), "UPE"}, {f.GetNoClusterFound(), "NC"},
		{f.GetOverloadManager(), "OM"}, {f.GetDnsResolutionFailure(), "DF"}, {f.GetDownstreamRemoteReset(), "DR"},
	} {
		if x.set {
			out = append(out, x.name)
		}
	}
	return strings.Join(out, ",")
}

// method is the name of a request's method; "" where it is none that has a name.
func method(m corev3.RequestMethod) string {
	if m == corev3.RequestMethod_METHOD_UNSPECIFIED {
		return ""
	}
	return m.String()
}
