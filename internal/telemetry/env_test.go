package telemetry

import (
	"strings"
	"testing"
)

// clean takes away what the environment of the tests says.
func clean(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, s := range []string{"", "TRACES_", "LOGS_", "METRICS_"} {
		for _, what := range []string{otlpEndpoint, otlpProtocol, otlpHeaders, "TIMEOUT", "COMPRESSION", otlpCertificate, otlpClientCertificate, otlpClientKey} {
			t.Setenv("OTEL_EXPORTER_OTLP_"+s+what, "")
		}
	}
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", varDisabled, varQueue} {
		t.Setenv(name, "")
	}
	for name, v := range vars {
		t.Setenv(name, v)
	}
}

type vars = map[string]string

func TestExporter(t *testing.T) {
	for _, c := range []struct {
		env                   vars
		traces, logs, metrics string
	}{
		{nil, none, none, none},
		{vars{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, none, none, none},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, http, http, http},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, grpc, grpc, grpc},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc"}, http, grpc, http},
		{vars{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, http, none, none},
		{vars{"OTEL_TRACES_EXPORTER": "otlp"}, http, none, none},
		{vars{"OTEL_METRICS_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "none"}, none, none, console},
		{vars{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}, http, none, none},
	} {
		clean(t, c.env)
		for s, want := range map[signal]string{traces: c.traces, logs: c.logs, metrics: c.metrics} {
			if got, err := s.exporter(); got != want || err != nil {
				t.Errorf("%v: %s by %q (%v), want %q", c.env, s, got, err, want)
			}
		}
	}
}

// TestWrong has what cannot be, and what is said of it. No error holds a secret.
func TestWrong(t *testing.T) {
	const on = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for _, c := range []struct {
		env  vars
		want string
	}{
		{vars{"OTEL_TRACES_EXPORTER": "zipkin"}, `OTEL_TRACES_EXPORTER="zipkin": use otlp, console or none`},
		{vars{"OTEL_METRICS_EXPORTER": "prometheus"}, `use otlp, console or none; for Prometheus, Weir serves /metrics`},
		{vars{"OTEL_LOGS_EXPORTER": "otlp,console"}, `OTEL_LOGS_EXPORTER="otlp,console"`},
		{vars{on: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, `OTEL_EXPORTER_OTLP_PROTOCOL="http/json": use grpc or http/protobuf`},
		{vars{on: "http://c:4318", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "udp"}, `OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="udp"`},
		{vars{"OTEL_SDK_DISABLED": "yes"}, `OTEL_SDK_DISABLED="yes": use true or false`},
		{vars{on: "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL of http or https"},
		{vars{on: "http://user:s3cr3t-value@"}, "OTEL_EXPORTER_OTLP_ENDPOINT is no URL"},
		{vars{on: "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "unix:///s3cr3t-value"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is no URL"},
		{vars{on: "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "x-team=a,s3cr3t-value"}, `OTEL_EXPORTER_OTLP_HEADERS: part 2 is not "name=value"`},
		{vars{on: "http://c:4318", "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "authorization=s3cr3t-value%zz"}, "OTEL_EXPORTER_OTLP_LOGS_HEADERS: the value of authorization has a % that"},
		{vars{on: "http://c:4318", "OTEL_BSP_SCHEDULE_DELAY": "5s"}, `OTEL_BSP_SCHEDULE_DELAY="5s": use a whole number above 0`},
		{vars{on: "http://c:4318", "OTEL_BSP_SCHEDULE_DELAY": "", "OTEL_BLRP_MAX_QUEUE_SIZE": "0"}, `OTEL_BLRP_MAX_QUEUE_SIZE="0"`},
		{vars{on: "http://c:4318", "OTEL_BLRP_MAX_QUEUE_SIZE": "", "OTEL_RESOURCE_ATTRIBUTES": "team"}, `OTEL_RESOURCE_ATTRIBUTES: part 1, "team", is not "name=value"`},
		{vars{on: "http://c:4318", "OTEL_RESOURCE_ATTRIBUTES": "a=b,c"}, `OTEL_RESOURCE_ATTRIBUTES: part 2, "c", is not "name=value"`},
		{vars{on: "http://c:4318", "OTEL_RESOURCE_ATTRIBUTES": "a=100%"}, "OTEL_RESOURCE_ATTRIBUTES: the value of a has a % that"},
		{vars{on: "https://c:4318", "OTEL_EXPORTER_OTLP_CERTIFICATE": "testdata/no-such-file.pem"}, "OTEL_EXPORTER_OTLP_CERTIFICATE: open testdata/no-such-file.pem"},
		{vars{on: "https://c:4318", "OTEL_EXPORTER_OTLP_CERTIFICATE": "env_test.go"}, "OTEL_EXPORTER_OTLP_CERTIFICATE: env_test.go holds no certificate in PEM"},
		{vars{on: "https://c:4318", "OTEL_EXPORTER_OTLP_CERTIFICATE": "", "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY": "no-such.key"}, "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY: open no-such.key"},
		{vars{on: "https://c:4318", "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY": "env_test.go", "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE": "env_test.go"},
			"OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY: "},
	} {
		clean(t, c.env)
		_, err := Start(t.Context(), options(t, nil))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v: %v", c.env, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	clean(t, vars{
		"OTEL_EXPORTER_OTLP_HEADERS":        "Authorization=Bearer%20abc-123,x=1,y=abc-123-longer",
		"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT":  "http://me:pass-word@c:4318",
		"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "k = other-key ",
	})
	got := secrets().Replace("Bearer%20abc-123 Bearer abc-123 (abc-123) abc-123-longer pass-word other-key 1")
	if want := "*** *** (***) *** *** *** 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
