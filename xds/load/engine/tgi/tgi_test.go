package tgi_test

import (
	"testing"
	"time"

	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/engine/tgi"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return tgi.New() }

func TestRead(t *testing.T) {
	for name, story := range map[string][]Step{
		"router": {
			{Page: "router.txt", Want: signal.Sample{Has: Has(signal.Waiting, signal.Running, signal.QueueDelay), Running: 12}},
			{Page: "router-later.txt", After: 500 * time.Millisecond, Want: signal.Sample{
				Has: Has(signal.Waiting, signal.Running, signal.QueueDelay), Waiting: 7, Running: 16, QueueDelay: 750 * time.Millisecond,
			}},
		},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, tgi.New(), Page(t, "router.txt"), 0)
}
