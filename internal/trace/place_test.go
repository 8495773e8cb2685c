package trace

import (
	"strings"
	"testing"
)

const (
	tid = "0af7651916cd43dd8448eb211c80319c"
	sid = "b7ad6b7169203331"
)

func never(string) bool  { return false }
func always(string) bool { return true }

func TestBegin(t *testing.T) {
	for _, c := range []struct {
		header  string
		known   bool
		sampled bool
	}{
		{"00-" + tid + "-" + sid + "-01", true, true},
		{"00-" + tid + "-" + sid + "-00", true, false},
		{"00-" + tid + "-" + sid + "-ff", true, true},
		{"00-" + tid + "-" + sid + "-02", true, false},
		{"cc-" + tid + "-" + sid + "-01-what-the-future-brings", true, true},
		{"cc-" + tid + "-" + sid + "-01x", false, false},
		{"00-" + tid + "-" + sid + "-01-more", false, false},
		{"ff-" + tid + "-" + sid + "-01", false, false},
		{"00-" + strings.ToUpper(tid) + "-" + sid + "-01", false, false},
		{"00-" + strings.Repeat("0", 32) + "-" + sid + "-01", false, false},
		{"00-" + tid + "-" + strings.Repeat("0", 16) + "-01", false, false},
		{"00-" + tid + "-" + sid, false, false},
		{"00-" + tid + "-" + sid + "-0g", false, false},
		{"", false, false},
		{"nonsense", false, false},
	} {
		p := Begin(c.header, never)
		if (p.Trace == tid && p.Parent == sid) != c.known || p.Sampled != c.sampled {
			t.Errorf("%q: %+v", c.header, p)
		}
		if !c.known && (p.Parent != "" || len(p.Trace) != 32 || !Begin(c.header, always).Sampled) {
			t.Errorf("%q begins %+v", c.header, p)
		}
		if again := Parse(p.Header(), p.Flags(), p.Parent); again != p {
			t.Errorf("%+v is read as %+v", p, again)
		}
	}
	if a, b := Begin("", always), Begin("", always); a.Trace == b.Trace || a.Span == b.Span {
		t.Errorf("two requests are one: %+v, %+v", a, b)
	}
}

func TestIDs(t *testing.T) {
	p := Begin("00-"+tid+"-"+sid+"-01", never)
	for n := 1; n <= 9; n++ {
		d, ok := Attempt(n)
		if !ok {
			t.Fatalf("attempt %d has no digit", n)
		}
		span, got, ok := AttemptOf("00-" + p.Trace + "-" + p.ID(d) + p.Flags())
		if !ok || span != p.Span || got != n {
			t.Errorf("attempt %d is read as %d of %q", n, got, span)
		}
	}
	for _, n := range []int{-1, 0, 10} {
		if _, ok := Attempt(n); ok {
			t.Errorf("attempt %d has a digit", n)
		}
	}
	if _, _, ok := AttemptOf("00-" + p.Trace + "-" + p.ID(Request) + "-01"); ok {
		t.Error("the request is taken for an attempt")
	}
	if q := Of("00-" + tid + "-" + sid + "-01"); q.Trace != tid || q.Parent != sid || q.Span == "" || !q.Sampled {
		t.Errorf("the caller's: %+v", q)
	}
	if q := Of("nonsense"); q != (Place{}) {
		t.Errorf("nonsense is %+v", q)
	}
	for _, s := range []string{"", "00-", "00-" + tid + "-" + sid, "00-" + tid + "-zzzzzzzzzzzzzzz"} {
		if q := Parse(s, "-01", ""); q != (Place{}) {
			t.Errorf("%q is read as %+v", s, q)
		}
	}
}

// FuzzBegin: whatever a caller sends, what is sent on is well formed.
func FuzzBegin(f *testing.F) {
	f.Add("00-" + tid + "-" + sid + "-01")
	f.Add("cc-" + tid + "-" + sid + "-01-x")
	f.Add("")
	f.Fuzz(func(t *testing.T, header string) {
		p := Begin(header, always)
		sent := p.Header() + "1" + p.Flags()
		id, span, _ := parse(sent)
		if id != p.Trace || span != p.ID('1') {
			t.Errorf("%q is sent on as %q", header, sent)
		}
		if p.Parent != "" && !strings.Contains(header, p.Parent) {
			t.Errorf("%q has the parent %q", header, p.Parent)
		}
	})
}

// BenchmarkBegin continues a caller's trace, and begins one.
func BenchmarkBegin(b *testing.B) {
	for name, header := range map[string]string{"continued": "00-" + tid + "-" + sid + "-01", "new": ""} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Begin(header, never)
			}
		})
	}
}
