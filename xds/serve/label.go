package serve

import (
	"strconv"
	"strings"
)

// label says of a response where it comes from: Envoy's answer to it may come when something else is served.
type label struct {
	serial uint64 // of the snapshot; one for each that is served
	turn   uint64 // of the overlay that had a part in it; 0 for none
}

// String is what a response carries as its system version.
func (l label) String() string {
	serial := strconv.FormatUint(l.serial, 10)
	if l.turn == 0 {
		return serial
	}
	return serial + "/" + strconv.FormatUint(l.turn, 10)
}

// parseLabel reads what String has written; what it has not is the zero label.
func parseLabel(s string) (l label) {
	serial, turn, steered := strings.Cut(s, "/")
	l.serial, _ = strconv.ParseUint(serial, 10, 64)
	if steered {
		l.turn, _ = strconv.ParseUint(turn, 10, 64)
	}
	return l
}
