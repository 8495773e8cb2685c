package sglang_test

import (
	"testing"
	"time"

	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/engine/sglang"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return sglang.New() }

func TestRead(t *testing.T) {
	for name, story := range map[string][]Step{
		// Two data-parallel ranks, each told by both of its tensor-parallel ranks.
		"ranks": {
			{Page: "data-parallel.txt", Want: signal.Sample{Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens), Waiting: 5, Running: 38, KVCache: 0.62, KVTokens: 600000}},
			{Page: "data-parallel-later.txt", After: 500 * time.Millisecond, Want: signal.Sample{
				Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens, signal.QueueDelay), Waiting: 12, Running: 38, KVCache: 0.97, KVTokens: 600000, QueueDelay: time.Second,
			}},
		},
		"single": {{Page: "single.txt", Want: signal.Sample{Has: Has(signal.Waiting, signal.Running, signal.KVCache, signal.KVTokens), Waiting: 2, Running: 7, KVCache: 0.28, KVTokens: 299968}}},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, sglang.New(), Page(t, "data-parallel.txt"), 0)
}
