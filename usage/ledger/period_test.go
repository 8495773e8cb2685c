package ledger

import (
	"fmt"
	"testing"
	"time"
)

func TestPeriods(t *testing.T) {
	now := time.Date(2026, 3, 31, 23, 30, 0, 0, time.FixedZone("", -3600))
	for _, c := range []struct{ from, to, want string }{
		{"", "", "2026-04-01T00:00:00Z 0001-01-01T00:00:00Z <nil>"},
		{"2026-03-01", "2026-03-31", "2026-03-01T00:00:00Z 2026-04-01T00:00:00Z <nil>"},
		{"2026-03-01", "2026-03-01", "2026-03-01T00:00:00Z 2026-03-02T00:00:00Z <nil>"},
		{"2026-03-01T10:00:00Z", "2026-03-01T12:00:00Z", "2026-03-01T10:00:00Z 2026-03-01T12:00:00Z <nil>"},
		{"2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z", "to 2026-03-01T10:00:00Z is before the beginning, 2026-03-01T10:00:00Z"},
		{"", "2026-03-31", "to 2026-03-31 is before the beginning, 2026-04-01T00:00:00Z"},
		{"March", "", `from "March" is neither a day such as 2026-03-01 nor a time such as 2026-03-01T12:00:00Z`},
		{"", "31.3.", `to "31.3." is neither a day such as 2026-03-01 nor a time such as 2026-03-01T12:00:00Z`},
	} {
		from, to, err := ParsePeriod(c.from, c.to, now)
		got := fmt.Sprint(from.Format(time.RFC3339), " ", to.Format(time.RFC3339), " ", err)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}
