// Package kubernetes has the end-to-end tests in which objects come from a real kube-apiserver: weir and a real Envoy beside it, alone or with a
// control plane. They are a package of their own so that no other end-to-end test needs an API server.
package kubernetes

import (
	"testing"

	"github.com/weir-dev/weir/test/e2e/harness"
	"github.com/weir-dev/weir/test/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(harness.Clean(m)) }
