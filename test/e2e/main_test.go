package e2e

import (
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
