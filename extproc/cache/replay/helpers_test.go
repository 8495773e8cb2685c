package replay

import (
	"testing"

	"github.com/weir-dev/weir/adapters"
)

func testSet(t testing.TB) *adapters.Set {
	t.Helper()
	s, err := adapters.NewSet(adapters.Catalog()...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
