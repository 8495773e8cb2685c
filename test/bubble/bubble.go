// Package bubble runs tests in a bubble of testing/synctest.
package bubble

import (
	"runtime"
	"testing"
	"testing/synctest"
)

// Test is [synctest.Test], which crashes now and then under the race detector where there is more than one core: the timers of a bubble share one
// context of the detector, and two that fire on two cores corrupt it (https://github.com/golang/go/issues/78156). So with the detector the process
// has one core from its first bubble on; what the detector finds by order of events it finds there too.
func Test(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if raceEnabled {
		runtime.GOMAXPROCS(1)
	}
	synctest.Test(t, test)
}
