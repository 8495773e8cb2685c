package engine_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/xds/load/engine"
	"github.com/weir-dev/weir/xds/load/signal"
)

// TestCatalog: every type of metrics that is scraped has an engine.
func TestCatalog(t *testing.T) {
	want := map[v1alpha1.MetricsType]engine.Engine{
		v1alpha1.MetricsVLLM:        {DefaultPath: "/metrics"},
		v1alpha1.MetricsSGLang:      {DefaultPath: "/metrics"},
		v1alpha1.MetricsTriton:      {DefaultPath: "/metrics", DefaultPort: 8002},
		v1alpha1.MetricsTensorRTLLM: {DefaultPath: "/prometheus/metrics"},
		v1alpha1.MetricsTGI:         {DefaultPath: "/metrics"},
		v1alpha1.MetricsDCGM:        {DefaultPath: "/metrics", DefaultPort: 9400},
	}
	for kind, e := range want {
		got, ok := engine.Find(string(kind))
		if !ok || got.DefaultPort != e.DefaultPort || got.DefaultPath != e.DefaultPath || got.New() == nil || got.New() == got.New() {
			t.Errorf("%s: %+v, %v", kind, got, ok)
		}
	}
	if got := engine.Catalog(); len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b engine.Engine) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }) {
		t.Errorf("%d engines, want %d in order", len(got), len(want))
	}
	if _, ok := engine.Find(string(v1alpha1.MetricsORCA)); ok {
		t.Error("ORCA is not scraped")
	}
}

// TestOthersPages: no engine takes another's page for its own.
func TestOthersPages(t *testing.T) {
	folders := map[string]string{"VLLM": "vllm", "SGLang": "sglang", "Triton": "triton", "TensorRTLLM": "trtllm", "TGI": "tgi", "DCGM": "dcgm"}
	for _, e := range engine.Catalog() {
		for name, folder := range folders {
			for file, page := range pages(t, folder) {
				s, err := e.New().Read(bytes.NewReader(page), time.Unix(1, 0))
				if own := e.Name == name; own != (err == nil) || own != (s.Has != 0) {
					t.Errorf("%s reads %s: %+v, %v", e.Name, file, s, err)
				}
			}
		}
	}
}

// FuzzRead: no page makes a reader panic or say what cannot be.
func FuzzRead(f *testing.F) {
	for i, e := range engine.Catalog() {
		folder := map[string]string{"VLLM": "vllm", "SGLang": "sglang", "Triton": "triton", "TensorRTLLM": "trtllm", "TGI": "tgi", "DCGM": "dcgm"}[e.Name]
		for _, page := range pages(f, folder) {
			f.Add(uint8(i), page[:min(len(page), 1500)], page[max(0, len(page)-1500):])
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, first, second []byte) {
		catalog := engine.Catalog()
		r := catalog[int(which)%len(catalog)].New()
		at := time.Unix(1, 0)
		for _, page := range [][]byte{first, second, first} {
			s, err := r.Read(bytes.NewReader(page), at)
			if err != nil && s != (signal.Sample{}) {
				t.Errorf("%+v beside an error", s)
			}
			for _, part := range []float64{s.KVCache, s.GPUUtilization, s.GPUMemory} {
				if !(part >= 0 && part <= 1) {
					t.Errorf("not a part: %+v", s)
				}
			}
			if !(s.Waiting >= 0 && s.Running >= 0 && s.KVTokens >= 0) || s.QueueDelay < 0 || s.QueueDelay > 24*time.Hour {
				t.Errorf("out of bounds: %+v", s)
			}
			at = at.Add(time.Second)
		}
	})
}

func pages(t testing.TB, folder string) map[string][]byte {
	files, err := filepath.Glob(filepath.Join(folder, "testdata", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages of %s: %v", folder, err)
	}
	out := make(map[string][]byte)
	for _, file := range files {
		if out[file], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return out
}
