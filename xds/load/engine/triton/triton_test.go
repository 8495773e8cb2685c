package triton_test

import (
	"testing"
	"time"

	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/engine/triton"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return triton.New() }

func TestRead(t *testing.T) {
	for name, story := range map[string][]Step{
		"TensorRT-LLM": {
			{Page: "tensorrt-llm.txt", Want: signal.Sample{
				Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens, signal.GPUUtilization, signal.GPUMemory), Waiting: 5, Running: 62, KVCache: 0.75012, KVTokens: 399296, GPUUtilization: 0.91, GPUMemory: 0.9,
			}},
			{Page: "tensorrt-llm.txt", After: 700 * time.Millisecond, Want: signal.Sample{
				Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens, signal.GPUUtilization, signal.GPUMemory, signal.QueueDelay), Waiting: 5, Running: 62, KVCache: 0.75012, KVTokens: 399296,
				GPUUtilization: 0.91, GPUMemory: 0.9, QueueDelay: 700 * time.Millisecond,
			}},
		},
		// Without the waiting requests and the fraction: what waits in Triton itself, and used of all blocks.
		"older": {{Page: "tensorrt-llm-older.txt", Want: signal.Sample{
			Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens, signal.GPUUtilization, signal.GPUMemory), Waiting: 3, Running: 62, KVCache: 4680.0 / 6239, KVTokens: 399296, GPUUtilization: 0.91, GPUMemory: 0.9,
		}}},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, triton.New(), Page(t, "tensorrt-llm.txt"), 0)
}
