// Package headers reads the load that servers tell in the headers of their answers: ORCA reports of inference servers, and the rate
// limits of public APIs. Its functions are pure, and safe for concurrent use. A header is asked for by its name in lower case; what
// is not there is "".
package headers

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/extproc/wire"
	"github.com/weir-dev/weir/xds/load/signal"
)

// maxReport is the longest report in bytes. vLLM's has about 100.
const maxReport = 16 << 10

// ORCA reads the report of an answer (github.com/cncf/xds, orca_load_report.proto): "TEXT name=value, name=value" or "JSON {...}".
// Of its metrics count those named ones that vLLM and Triton send. The processor's load in it says nothing about a GPU. Without a
// report the sample is empty.
func ORCA(get func(string) string, at time.Time) (signal.Sample, error) {
	report := get(wire.LoadReport)
	if report == "" {
		return signal.Sample{}, nil
	}
	if len(report) > maxReport {
		return signal.Sample{}, fmt.Errorf("the %s header is longer than %d bytes", wire.LoadReport, maxReport)
	}
	s := signal.Sample{At: at}
	var err error
	format, body, _ := strings.Cut(strings.TrimSpace(report), " ")
	switch format {
	case wire.LoadFormatText:
		err = readText(&s, body)
	case "JSON":
		err = readJSON(&s, body)
	default:
		err = errors.New("its format is neither TEXT nor JSON")
	}
	if err != nil {
		return signal.Sample{}, fmt.Errorf("the %s header: %w", wire.LoadReport, err)
	}
	return s, nil
}

func readText(s *signal.Sample, body string) error {
	for more := true; more; {
		var entry string
		entry, body, more = strings.Cut(body, ",")
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		i := strings.IndexAny(entry, "=:") // Envoy takes both
		if i < 0 {
			return errors.New("an entry has no value")
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(entry[i+1:]), 64)
		if err != nil {
			return errors.New("a value is not a number")
		}
		if name, named := strings.CutPrefix(strings.TrimSpace(entry[:i]), "named_metrics."); named {
			take(s, name, v)
		}
	}
	return nil
}

func readJSON(s *signal.Sample, body string) error {
	var report struct {
		Named map[string]json.RawMessage `json:"named_metrics"`
		Camel map[string]json.RawMessage `json:"namedMetrics"` // the canonical form of protobuf
	}
	if json.Unmarshal([]byte(body), &report) != nil {
		return errors.New("its JSON is malformed")
	}
	for _, metrics := range [...]map[string]json.RawMessage{report.Named, report.Camel} {
		for _, name := range [...]string{kvUsage, kvUsageOld, kvUtilization, waiting, running, capacity} {
			raw, ok := metrics[name]
			if !ok {
				continue
			}
			v, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64) // protobuf writes "NaN" as a string
			if err != nil {
				return errors.New("a value is not a number")
			}
			take(s, name, v)
		}
	}
	return nil
}

// The named metrics.
const (
	kvUsage       = "kv_cache_usage_perc"  // vLLM; 1 is full
	kvUsageOld    = "gpu_cache_usage_perc" // older vLLM
	kvUtilization = "kv_cache_utilization" // Triton with TensorRT-LLM; 1 is full
	waiting       = "num_requests_waiting"
	running       = "num_requests_running"
	capacity      = "max_token_capacity" // Triton with TensorRT-LLM
)

func take(s *signal.Sample, name string, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return
	}
	switch name {
	case kvUsage, kvUsageOld, kvUtilization:
		s.KVCache, s.Has = min(v, 1), s.Has.With(signal.KVCache)
	case waiting:
		s.Waiting, s.Has = v, s.Has.With(signal.Waiting)
	case running:
		s.Running, s.Has = v, s.Has.With(signal.Running)
	case capacity:
		if v > 0 {
			s.KVTokens, s.Has = v, s.Has.With(signal.KVTokens)
		}
	}
}
