package usage

import corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

// Envoy's response flags that are asked for by themselves: the numbers of their fields in ResponseFlags.
const (
	flagUnauthorized    = 13
	flagDownstreamEnded = 15
	flagDownstreamReset = 28
	numFlags            = 29
)

// appendFlagNames appends the names of the flags whose bits are set, as Envoy's text logs have them: "UF,URX". The bits have the numbers of
// the fields in ResponseFlags.
func appendFlagNames(b []byte, flags uint32) []byte {
	if flags == 0 {
		return b
	}
	begin := len(b)
	for n, name := range [numFlags]string{
		1: "LH", 2: "UH", 3: "UT", 4: "LR", 5: "UR", 6: "UF", 7: "UC", 8: "UO", 9: "NR", 10: "DI", 11: "FI", 12: "RL", flagUnauthorized: "UAEX",
		14: "RLSE", flagDownstreamEnded: "DC", 16: "URX", 17: "SI", 18: "IH", 19: "DPE", 20: "UMSDR", 21: "RFCF", 22: "NFCF", 23: "DT", 24: "UPE",
		25: "NC", 26: "OM", 27: "DF", flagDownstreamReset: "DR",
	} {
		if flags>>n&1 == 0 {
			continue
		}
		if len(b) > begin {
			b = append(b, ',')
		}
		b = append(b, name...)
	}
	return b
}

// method is the name of a request's method; "" where it is none that has a name.
func method(m int32) string {
	if m == 0 {
		return ""
	}
	return corev3.RequestMethod(m).String()
}
