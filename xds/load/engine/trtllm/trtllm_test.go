package trtllm_test

import (
	"testing"
	"time"

	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/engine/trtllm"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return trtllm.New() }

func TestRead(t *testing.T) {
	for name, story := range map[string][]Step{
		"serve": {
			{Page: "serve.txt", Want: signal.Sample{Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens), Waiting: 2, Running: 61, KVCache: 0.8125, KVTokens: 291840}},
			{Page: "serve-later.txt", After: 500 * time.Millisecond, Want: signal.Sample{
				Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens, signal.QueueDelay), Running: 64, KVCache: 0.8437, KVTokens: 291840, QueueDelay: 800 * time.Millisecond,
			}},
		},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, trtllm.New(), Page(t, "serve.txt"), 0)
}
