package telemetry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// The standard variables: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and, for OTLP,
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/. The SDK reads most of them by itself, and goes on with a default where one
// is wrong; here that is an error, so that nobody looks for traces that were never sent.
const (
	varDisabled  = "OTEL_SDK_DISABLED"
	varQueue     = "OTEL_BSP_MAX_QUEUE_SIZE"
	otlpEndpoint = "ENDPOINT"
	otlpProtocol = "PROTOCOL"
	otlpHeaders  = "HEADERS"
)

// signal is a kind of telemetry, as the variables spell it.
type signal string

const (
	traces  signal = "TRACES"
	logs    signal = "LOGS"
	metrics signal = "METRICS"
)

var signals = [...]signal{traces, logs, metrics}

func (s signal) String() string { return strings.ToLower(string(s)) }

// otlp is an OTLP variable of the signal, or the one of all signals: its name and value.
func (s signal) otlp(what string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_" + string(s) + "_" + what
	if v := os.Getenv(name); v != "" {
		return name, v
	}
	name = "OTEL_EXPORTER_OTLP_" + what
	return name, os.Getenv(name)
}

// How a signal is exported.
const (
	none    = ""
	console = "console"
	grpc    = "grpc"
	http    = "http/protobuf"
)

// exporter says how a signal is exported. It is where somebody has named its exporter, or an endpoint for OTLP.
func (s signal) exporter() (string, error) {
	name := "OTEL_" + string(s) + "_EXPORTER"
	switch v := os.Getenv(name); v {
	case "none":
		return none, nil
	case "console":
		return console, nil
	case "otlp":
	case "":
		if _, endpoint := s.otlp(otlpEndpoint); endpoint == "" {
			return none, nil
		}
	default:
		hint := ""
		if v == "prometheus" {
			hint = "; for Prometheus, Weir serves /metrics at its admin address"
		}
		return none, fmt.Errorf("%s=%q: use otlp, console or none%s", name, v, hint)
	}
	name, protocol := s.otlp(otlpProtocol)
	switch protocol {
	case "", http:
		return http, nil
	case grpc:
		return grpc, nil
	}
	return none, fmt.Errorf("%s=%q: use grpc or http/protobuf", name, protocol)
}

// disabled says whether the whole SDK is switched off.
func disabled() (bool, error) {
	switch v := os.Getenv(varDisabled); strings.ToLower(v) {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fmt.Errorf("%s=%q: use true or false", varDisabled, v)
	}
}

// checkNumbers looks at the variables that hold milliseconds or counts.
func checkNumbers() error {
	names := []string{"OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"}
	for _, s := range signals {
		names = append(names, "OTEL_EXPORTER_OTLP_"+string(s)+"_TIMEOUT")
	}
	for _, batch := range [...]string{"OTEL_BSP_", "OTEL_BLRP_"} {
		for _, what := range [...]string{"SCHEDULE_DELAY", "EXPORT_TIMEOUT", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE"} {
			names = append(names, batch+what)
		}
	}
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			if n, err := strconv.Atoi(v); err != nil || n < 1 {
				return fmt.Errorf("%s=%q: use a whole number above 0", name, v)
			}
		}
	}
	return nil
}

// checkEndpoint looks at where a signal goes by OTLP.
func checkEndpoint(s signal) error {
	name, v := s.otlp(otlpEndpoint)
	if v == "" {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%s is no URL of http or https with a host; use one such as http://127.0.0.1:4318", name) // it may hold a password
	}
	return nil
}

// grpcPort is where collectors take OTLP by gRPC, and not by HTTP.
const grpcPort = "4317"

// looksLikeGRPC says whether a signal goes by HTTP to the port that is gRPC's by convention: the commonest mistake there is.
func looksLikeGRPC(s signal, exporter string) bool {
	_, v := s.otlp(otlpEndpoint)
	u, err := url.Parse(v)
	return err == nil && exporter == http && u.Port() == grpcPort
}

// checkHeaders looks at the headers of exports, whose values are secrets.
func checkHeaders(s signal) error {
	name, v := s.otlp(otlpHeaders)
	for i, part := range headerParts(v) {
		key, value, ok := strings.Cut(part, "=")
		if !ok || strings.TrimSpace(key) == "" {
			return fmt.Errorf(`%s: part %d is not "name=value"; separate headers by commas`, name, i+1)
		}
		if _, err := url.PathUnescape(value); err != nil {
			return fmt.Errorf("%s: the value of %s has a %% that begins no escape; write %%25 for it", name, strings.TrimSpace(key))
		}
	}
	return nil
}

// varAttributes holds what describes who exports.
const varAttributes = "OTEL_RESOURCE_ATTRIBUTES"

// checkAttributes looks at what is said of who exports.
func checkAttributes() error {
	v := strings.TrimSpace(os.Getenv(varAttributes))
	if v == "" {
		return nil
	}
	for i, part := range strings.Split(v, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || strings.TrimSpace(key) == "" {
			return fmt.Errorf(`%s: part %d, %q, is not "name=value"; separate attributes by commas, and write %%2C for a comma in a value`, varAttributes, i+1, part)
		}
		if _, err := url.PathUnescape(value); err != nil {
			return fmt.Errorf("%s: the value of %s has a %% that begins no escape; write %%25 for it", varAttributes, strings.TrimSpace(key))
		}
	}
	return nil
}

// The variables of files in PEM.
const (
	otlpCertificate       = "CERTIFICATE"
	otlpClientCertificate = "CLIENT_CERTIFICATE"
	otlpClientKey         = "CLIENT_KEY"
)

// checkFiles looks at the files that exports of a signal by OTLP are made secure with.
func checkFiles(s signal) error {
	for _, what := range [...]string{otlpCertificate, otlpClientCertificate, otlpClientKey} {
		name, file := s.otlp(what)
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if what == otlpCertificate && !x509.NewCertPool().AppendCertsFromPEM(b) {
			return fmt.Errorf("%s: %s holds no certificate in PEM", name, file)
		}
	}
	certificate, certificateFile := s.otlp(otlpClientCertificate)
	key, keyFile := s.otlp(otlpClientKey)
	if certificateFile == "" || keyFile == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(certificateFile, keyFile); err != nil {
		return fmt.Errorf("%s and %s: %w", certificate, key, err)
	}
	return nil
}

func headerParts(v string) []string {
	return slices.DeleteFunc(strings.Split(v, ","), func(s string) bool { return strings.TrimSpace(s) == "" })
}

// shortestSecret is the fewest bytes that are taken for a secret in a text: what is shorter stands in too many words.
const shortestSecret = 4

// secrets replaces what must not be in a log: values of headers, and passwords in endpoints.
func secrets() *strings.Replacer {
	var found []string
	add := func(values ...string) {
		for _, v := range values {
			if len(v) >= shortestSecret {
				found = append(found, v)
			}
		}
	}
	for _, s := range append([]string{""}, "TRACES_", "LOGS_", "METRICS_") {
		for _, part := range headerParts(os.Getenv("OTEL_EXPORTER_OTLP_" + s + otlpHeaders)) {
			_, value, _ := strings.Cut(part, "=")
			value = strings.TrimSpace(value)
			plain, err := url.PathUnescape(value)
			if err != nil {
				plain = value
			}
			_, token, _ := strings.Cut(plain, " ") // of "Bearer token"
			add(value, plain, token)
		}
		if u, err := url.Parse(os.Getenv("OTEL_EXPORTER_OTLP_" + s + otlpEndpoint)); err == nil {
			password, _ := u.User.Password()
			add(password)
		}
	}
	// The longest first, or what is left of it would stay.
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, s := range found {
		pairs = append(pairs, s, "***")
	}
	return strings.NewReplacer(pairs...)
}
