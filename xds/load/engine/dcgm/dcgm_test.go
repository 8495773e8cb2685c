package dcgm_test

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/xds/load/engine/dcgm"
	. "github.com/weir-dev/weir/xds/load/engine/internal/enginetest"
	"github.com/weir-dev/weir/xds/load/signal"
)

func fresh() Reader { return dcgm.New() }

func TestRead(t *testing.T) {
	for name, story := range map[string][]Step{
		// The busiest GPU is not the fullest one.
		"two GPUs": {{Page: "exporter.txt", Want: signal.Sample{Has: Has(signal.GPUUtilization, signal.GPUMemory), GPUUtilization: 0.91, GPUMemory: 75009.0 / 80999}}},
		// GPU_UTIL is blank: the engines of the instances instead.
		"instances": {{Page: "mig.txt", After: time.Minute, Want: signal.Sample{Has: Has(signal.GPUUtilization, signal.GPUMemory), GPUUtilization: 0.874312, GPUMemory: 75009.0 / 80999}}},
	} {
		t.Run(name, func(t *testing.T) { Run(t, fresh, story) })
	}
}

func TestReadAllocates(t *testing.T) {
	Allocs(t, dcgm.New(), Page(t, "exporter.txt"), 0)
}
