package limit

import (
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata" // the tests need the zones wherever they run
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestPeriods(t *testing.T) {
	for _, c := range []struct {
		name, zone string
		period     Period
		at         string // RFC 3339
		start, end string
	}{
		{"a day in UTC", "UTC", Day, "2026-05-17T12:00:00Z", "2026-05-17T00:00:00Z", "2026-05-18T00:00:00Z"},
		{"its first instant", "UTC", Day, "2026-05-17T00:00:00Z", "2026-05-17T00:00:00Z", "2026-05-18T00:00:00Z"},
		{"a day elsewhere", "Asia/Shanghai", Day, "2026-05-17T16:00:00Z", "2026-05-18T00:00:00+08:00", "2026-05-19T00:00:00+08:00"},
		{"a day of 23 hours", "Europe/Berlin", Day, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"a day of 25 hours", "Europe/Berlin", Day, "2026-10-25T00:30:00Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"a day without a midnight", "America/Sao_Paulo", Day, "2018-11-04T12:00:00Z", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"},
		{"the day before it", "America/Sao_Paulo", Day, "2018-11-03T12:00:00Z", "2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00"},
		{"a gap from 23:30 to 00:30", "America/Toronto", Day, "1919-03-31T12:00:00-04:00", "1919-03-31T00:30:00-04:00", "1919-04-01T00:00:00-04:00"},
		{"a day with two midnights", "America/Havana", Day, "2026-11-01T12:00:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"the second hour after midnight of it", "America/Havana", Day, "2026-11-01T05:30:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"},
		{"before a date that was left out", "Pacific/Apia", Day, "2011-12-29T12:00:00-10:00", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"},
		{"a week, on its Monday", "UTC", Week, "2026-05-18T00:00:00Z", "2026-05-18T00:00:00Z", "2026-05-25T00:00:00Z"},
		{"a week, on its Sunday", "UTC", Week, "2026-05-24T23:59:59Z", "2026-05-18T00:00:00Z", "2026-05-25T00:00:00Z"},
		{"a week over a new year", "UTC", Week, "2027-01-02T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"a week with summer time", "Europe/Berlin", Week, "2026-03-29T12:00:00Z", "2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"a month", "UTC", Month, "2026-02-28T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"a leap month", "UTC", Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"December", "America/New_York", Month, "2026-12-31T23:00:00-05:00", "2026-12-01T00:00:00-05:00", "2027-01-01T00:00:00-05:00"},
		{"a month with summer time", "America/New_York", Month, "2026-03-20T00:00:00Z", "2026-03-01T00:00:00-05:00", "2026-04-01T00:00:00-04:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			r := &Rule{Algorithm: Calendar, Unit: Cost, Period: c.period, Location: zone(t, c.zone)}
			start, end := r.PeriodAt(at)
			if got := start.Format(time.RFC3339); got != c.start {
				t.Errorf("starts at %s, not %s", got, c.start)
			}
			if got := end.Format(time.RFC3339); got != c.end {
				t.Errorf("ends at %s, not %s", got, c.end)
			}
		})
	}
}

func TestPeriodsOfOtherRules(t *testing.T) {
	if s, e := (&Rule{Algorithm: SlidingWindow, Window: time.Minute}).PeriodAt(time.Now()); !s.IsZero() || !e.IsZero() {
		t.Errorf("a window has the period %v to %v", s, e)
	}
	s, _ := (&Rule{Algorithm: Calendar, Unit: Cost}).PeriodAt(time.Date(2026, 5, 17, 9, 0, 0, 0, time.UTC))
	if want := time.Date(2026, 5, 17, 0, 0, 0, 0, time.UTC); !s.Equal(want) {
		t.Errorf("without a location the day starts at %v, not %v", s, want)
	}
}

// TestPeriodsCoverTime: whatever the zone does, a time is in its period, the periods touch, and they begin on the right day.
func TestPeriodsCoverTime(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{
		"UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe",
		"Africa/Cairo", "Asia/Beirut", "America/Asuncion", "Pacific/Apia", "America/Scoresbysund", "Atlantic/Azores", "Asia/Tehran",
	}
	from := time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 20_000 {
		loc := zone(t, names[rnd.IntN(len(names))])
		p := Period(rnd.IntN(3))
		at := from.Add(time.Duration(rnd.Int64N(int64(20 * 365 * 24 * time.Hour))))
		start, end := periodAt(at, p, loc)
		if at.Before(start) || !at.Before(end) {
			// An hour that a clock shows twice over midnight is on the date that it shows; see calendar.roll.
			if d := start.Sub(at); d > time.Hour || at.After(end.Add(time.Hour)) {
				t.Fatalf("%s %d: %v is not in %v to %v", loc, p, at.In(loc), start, end)
			}
			continue
		}
		if s, e := periodAt(start, p, loc); !s.Equal(start) || !e.Equal(end) {
			t.Fatalf("%s %d: the start of %v to %v is in %v to %v", loc, p, start, end, s, e)
		}
		if next, _ := periodAt(end, p, loc); !next.Equal(end) {
			t.Fatalf("%s %d: after the period to %v comes one from %v", loc, p, end, next)
		}
		if p == Week && start.Weekday() != time.Monday {
			t.Fatalf("%s: a week begins on %s, %v", loc, start.Weekday(), start)
		}
		if p == Month && start.Day() != 1 {
			t.Fatalf("%s: a month begins at %v", loc, start)
		}
	}
}
