package spans

import (
	"math/rand/v2"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/weir-dev/weir/internal/trace"
)

// TestSamplerAgrees: a service that samples by the same ratio decides as Weir does.
func TestSamplerAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, ratio := range []float64{0, 0.0001, 0.25, 0.5, 0.999, 1} {
		s, sdk := NewSampler(Policy{Ratio: ratio}), sdktrace.TraceIDRatioBased(ratio)
		sampled := 0
		for range 2000 {
			var id oteltrace.TraceID
			for i := range id {
				id[i] = byte(random.Uint32())
			}
			want := sdk.ShouldSample(sdktrace.SamplingParameters{TraceID: id}).Decision == sdktrace.RecordAndSample
			if got := s.Sampled(id.String()); got != want {
				t.Fatalf("%v of %s: %v, the SDK says %v", ratio, id, got, want)
			}
			if want {
				sampled++
			}
		}
		if got := float64(sampled) / 2000; got < ratio-0.05 || got > ratio+0.05 {
			t.Errorf("of a ratio of %v, %v are sampled", ratio, got)
		}
	}
	for _, id := range []string{"", "nonsense", strings.Repeat("z", 32)} {
		if NewSampler(Policy{Ratio: 0.999}).Sampled(id) {
			t.Errorf("%q is sampled", id)
		}
	}
}

// TestSamplerApply: a policy that changes holds for the next request.
func TestSamplerApply(t *testing.T) {
	s := NewSampler(Policy{Ratio: 1})
	if !trace.Begin("", s.Sampled).Sampled {
		t.Error("not sampled at 1")
	}
	s.Apply(Policy{})
	if trace.Begin("", s.Sampled).Sampled {
		t.Error("sampled at 0")
	}
}

func TestRatioOf(t *testing.T) {
	for _, c := range []struct {
		sampler, arg string
		want         float64
		wrong        string
	}{
		{"", "", 1, ""},
		{"", "0.5", 1, ""},
		{"always_on", "", 1, ""},
		{"always_off", "", 0, ""},
		{"parentbased_always_on", "", 1, ""},
		{"parentbased_always_off", "0.5", 0, ""},
		{"traceidratio", "0.25", 0.25, ""},
		{"parentbased_traceidratio", "1e-3", 0.001, ""},
		{"traceidratio", "", 1, ""},
		{"traceidratio", "1.5", 0, "OTEL_TRACES_SAMPLER_ARG"},
		{"traceidratio", "-1", 0, "OTEL_TRACES_SAMPLER_ARG"},
		{"traceidratio", "NaN", 0, "OTEL_TRACES_SAMPLER_ARG"},
		{"traceidratio", "half", 0, "OTEL_TRACES_SAMPLER_ARG"},
		{"jaeger_remote", "", 0, "OTEL_TRACES_SAMPLER"},
	} {
		env := map[string]string{"OTEL_TRACES_SAMPLER": c.sampler, "OTEL_TRACES_SAMPLER_ARG": c.arg}
		got, err := RatioOf(func(name string) string { return env[name] })
		if c.wrong != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.wrong+"=") {
				t.Errorf("%+v: %v", c, err)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

func FuzzSampled(f *testing.F) {
	f.Add("0af7651916cd43dd8448eb211c80319c", 0.5)
	f.Add("", 0.1)
	f.Fuzz(func(t *testing.T, id string, ratio float64) {
		s := NewSampler(Policy{Ratio: ratio})
		got := s.Sampled(id)
		if tid, err := oteltrace.TraceIDFromHex(id); err == nil && ratio >= 0 && ratio <= 1 {
			want := sdktrace.TraceIDRatioBased(ratio).ShouldSample(sdktrace.SamplingParameters{TraceID: tid}).Decision == sdktrace.RecordAndSample
			if got != want {
				t.Errorf("%s at %v: %v, the SDK says %v", id, ratio, got, want)
			}
		}
	})
}
