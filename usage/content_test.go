package usage

import (
	"testing"
	"time"
)

// shelf is a ContentSource that counts what is asked of it.
type shelf struct{ asked, closed int }

func (s *shelf) Content() Content { s.asked++; return Content{Input: "text"} }
func (s *shelf) Close()           { s.closed++ }

// TestContentLastsAsLongAsItsRequest: whoever is told of the end may read it, and nobody after that.
func TestContentLastsAsLongAsItsRequest(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(*Desk, *Open, time.Time)
		told bool // of the end
	}{
		"its record comes":    {func(d *Desk, o *Open, _ time.Time) { d.Close(&Record{Exchange: o.ID, Status: 200, Attempts: 1}) }, true},
		"Envoy dies":          {func(d *Desk, o *Open, now time.Time) { o.Confirm(); d.Lost(now.Add(time.Hour)) }, true},
		"no record comes":     {func(d *Desk, o *Open, now time.Time) { o.Confirm(); d.Sweep(now.Add(time.Hour)) }, true},
		"nobody goes on":      {func(d *Desk, o *Open, now time.Time) { d.Sweep(now.Add(time.Hour)) }, false},
		"it is abandoned":     {func(_ *Desk, o *Open, _ time.Time) { o.Abandon() }, false},
		"its caller had gone": {func(d *Desk, o *Open, _ time.Time) { d.Close(&Record{PeekID: o.PeekID}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			read := Content{}
			r.opts.Finished = func(f *Finished) {
				if f.Open != nil {
					read = f.Open.Content()
				}
			}
			o := &Open{ID: "x-1", PeekID: "p-1", Expires: r.now}
			s := &shelf{}
			o.Capture(s)
			r.Begin(o)
			if s.asked != 0 || o.Content().Input != "text" {
				t.Errorf("while it runs: %+v", s)
			}
			end.do(r.Desk, o, r.now)
			if s.closed != 1 || o.Content() != (Content{}) || (read.Input == "text") != end.told {
				t.Errorf("%+v, read %+v, left %+v", s, read, o.Content())
			}
			late := &shelf{}
			o.Capture(late)
			if late.closed != 1 || o.Content() != (Content{}) {
				t.Errorf("after the end: %+v", late)
			}
		})
	}
	if got := (&Open{}).Content(); got != (Content{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
