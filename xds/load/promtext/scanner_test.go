package promtext_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weir-dev/weir/xds/load/promtext"
)

// scan reads a page and writes each sample as "name value", with the values of the labels behind it, and the error at the end.
func scan(s *promtext.Scanner, src io.Reader, labels ...string) []string {
	var out []string
	s.Reset(src)
	for s.Next() {
		line := string(s.Name())
		v, ok := s.Value()
		if s.Err() != nil {
			break
		}
		if ok {
			line += fmt.Sprintf(" %v", v)
		}
		for _, name := range labels {
			if text, ok := s.Label(name); ok {
				line += fmt.Sprintf(" %s=%q", name, text)
			}
		}
		out = append(out, line)
	}
	if s.Err() != nil {
		out = append(out, "error: "+s.Err().Error())
	}
	return out
}

func TestScanner(t *testing.T) {
	const notMetrics = "this is not a line of Prometheus metrics; is the path the right one?"
	for _, test := range []struct {
		name, page string
		want       []string
	}{
		{"empty", "", nil},
		{"blank lines and comments", "\n  \n# HELP a b\n#\n\t# x\na 1\n\n", []string{"a 1"}},
		{"without the last end of line", "a 1\nb 2", []string{"a 1", "b 2"}},
		{"ends of Windows", "# TYPE a gauge\r\na 1\r\nb{x=\"1\"} 2\r\n", []string{"a 1", `b 2 x="1"`}},
		{"blanks everywhere", "  a  \t1  \nb { x = \"1\" , y = \"2\" , } 2 \n", []string{"a 1", `b 2 x="1" y="2"`}},
		{"names", "vllm:a_1 1\n_b 2\n:c 3\nDCGM_FI 4\n", []string{"vllm:a_1 1", "_b 2", ":c 3", "DCGM_FI 4"}},
		{"no labels", "a{} 1\n", []string{"a 1"}},
		{"labels without a blank behind", "a{x=\"1\"}1\n", []string{`a 1 x="1"`}},
		{"only asked-for labels", `a{w="0",x="1",z="3"} 1` + "\n", []string{`a 1 x="1"`}},
		{"escapes", `a{x="q\"b\\n\nt\t}",y="\\"} 1` + "\n", []string{`a 1 x="q\"b\\n\nt\\t}" y="\\"`}},
		{"braces, commas and blanks in values", `a{x="{a=\"b\"} 7,",y=" "} 1` + "\n", []string{`a 1 x="{a=\"b\"} 7," y=" "`}},
		{"UTF-8", "a{x=\"größe\"} 1\n", []string{`a 1 x="größe"`}},
		{"numbers", "a 0\na 12.0\na -1.5\na +2\na 1e3\na 8.128902e+06\na 123456789012345678\na 9223372036854775794\na .5\na 1.\na 00012\n",
			[]string{"a 0", "a 12", "a -1.5", "a 2", "a 1000", "a 8.128902e+06", "a 1.2345678901234568e+17", "a 9.223372036854776e+18", "a 0.5", "a 1", "a 12"}},
		{"not finite", "a NaN\na +Inf\na -Inf\na Inf\na 1e999\n", []string{"a", "a +Inf", "a -Inf", "a +Inf", "a +Inf"}},
		{"long number", "a 0.1000000000000000055511151231257827021181583404541015625\n", []string{"a 0.1"}},
		{"timestamps", "a 1 1395066363000\nb{x=\"1\"} 2 -1\nc 3 1520879607.789\n", []string{"a 1", `b 2 x="1"`, "c 3"}},
		{"exemplars", "a_bucket{x=\"1\"} 8 # {trace=\"} 9\"} 0.67\na_bucket 9 1.5 # {} 1 2\n", []string{`a_bucket 8 x="1"`, "a_bucket 9"}},
		{"OpenMetrics ends", "a 1\n# EOF\nnot a line\n", []string{"a 1"}},
		{"quoted names", `{"my.metric",x="1"} 2` + "\n" + `{ "with \"quotes\"" } 3` + "\n" + `a{"k8s.pod"="p",x="1"} 4` + "\n",
			[]string{`my.metric 2 x="1"`, `with "quotes" 3`, `a 4 x="1"`}},

		{"a web page", "<!DOCTYPE html>\n", []string{"error: line 1 of the metrics: " + notMetrics}},
		{"JSON", "[{\"iter\": 1}]\n", []string{"error: line 1 of the metrics: " + notMetrics}},
		{"a JSON object", "a 1\n{\"iter\": 1}\n", []string{"a 1", "error: line 2 of the metrics: " + notMetrics}},
		{"a name alone", "a\n", []string{"error: line 1 of the metrics: " + notMetrics}},
		{"a name that begins with a digit", "1a 1\n", []string{"error: line 1 of the metrics: " + notMetrics}},
		{"no value", "a{x=\"1\"}\n", []string{"error: line 1 of the metrics: the value is not a number"}},
		{"a word", "a b\n", []string{"error: line 1 of the metrics: the value is not a number"}},
		{"a hexadecimal number", "a 0x10\n", []string{"error: line 1 of the metrics: the value is not a number"}},
		{"a number with underscores", "a 1_000\n", []string{"error: line 1 of the metrics: the value is not a number"}},
		{"a timestamp that is none", "a 1 b\n", []string{"error: line 1 of the metrics: the timestamp is not a number"}},
		{"too much", "a 1 2 3\n", []string{"error: line 1 of the metrics: something follows the value and its timestamp"}},
		{"an open brace", "a{x=\"1\" 1\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
		{"an open quote", "a{x=\"1} 1\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
		{"an escaped last quote", `a{x="1\"} 1` + "\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
		{"a label without a value", "a{x} 1\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
		{"a label without quotes", "a{x=1} 1\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
		{"labels without a comma", `a{x="1"y="2"} 1` + "\n", []string{"error: line 1 of the metrics: the labels are malformed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s promtext.Scanner
			for _, src := range []io.Reader{
				strings.NewReader(test.page), iotest.OneByteReader(strings.NewReader(test.page)), iotest.DataErrReader(strings.NewReader(test.page)),
			} {
				if got := scan(&s, src, "x", "y"); !slices.Equal(got, test.want) {
					t.Errorf("got  %q\nwant %q", got, test.want)
				}
			}
		})
	}
}

// TestSkipped: what nobody asks for is not judged, for a page may hold more than Weir knows.
func TestSkipped(t *testing.T) {
	var s promtext.Scanner
	s.Reset(strings.NewReader("odd{{{ ???\nasked 1\n"))
	if !s.Next() || string(s.Name()) != "odd" || !s.Next() || string(s.Name()) != "asked" || s.Next() || s.Err() != nil {
		t.Fatalf("%q, %v", s.Name(), s.Err())
	}
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("x", promtext.MaxLine-10)
	for _, test := range []struct {
		name string
		src  io.Reader
		want string
	}{
		{"a long line", strings.NewReader("a 1\nb{x=\"" + long + "yy\"} 2\n"), "line 2 of the metrics: the line is longer than 262144 bytes"},
		{"a long comment", strings.NewReader("# HELP a " + long + "yy\na 1\n"), "line 1 of the metrics: the line is longer than 262144 bytes"},
		{"without lines", iotest.DataErrReader(endless("x")), "line 1 of the metrics: the line is longer than 262144 bytes"},
		{"a long page", endless("abc{d=\"e\"} 1\n"), "the metrics are longer than 8388608 bytes: read the server itself, not an aggregate of many"},
		{"a broken source", io.MultiReader(strings.NewReader("a 1\nb 2"), iotest.ErrReader(errors.New("connection reset"))), "reading metrics: connection reset"},
		{"a source that stalls", stalled{}, "reading metrics: multiple Read calls return no data or error"},
		{"a source that lies", liar{}, "reading metrics: the source says that it read 4097 bytes where 4096 fit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s promtext.Scanner
			s.Reset(test.src)
			for s.Next() {
				if _, ok := s.Value(); !ok {
					t.Fatal("no value")
				}
			}
			if s.Err() == nil || s.Err().Error() != test.want {
				t.Errorf("got %v, want %s", s.Err(), test.want)
			}
			if s.Next() {
				t.Error("goes on after an error")
			}
			// The next page is not affected.
			if got := scan(&s, strings.NewReader("a 1\n")); !slices.Equal(got, []string{"a 1"}) {
				t.Errorf("the next page: %q", got)
			}
		})
	}
	t.Run("just not too long", func(t *testing.T) {
		var s promtext.Scanner
		line := "b{x=\"" + long + "\"} 2"
		if got := scan(&s, strings.NewReader("a 1\n"+line+"\nc 3\n")); !slices.Equal(got, []string{"a 1", "b 2", "c 3"}) {
			t.Errorf("%.60q", got)
		}
	})
}

type stalled struct{}

func (stalled) Read([]byte) (int, error) { return 0, nil }

type liar struct{}

func (liar) Read(p []byte) (int, error) { return len(p) + 1, nil }

func endless(text string) io.Reader { return &repeated{text: text} }

type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.text[r.at%len(r.text)]
		r.at++
	}
	return len(p), nil
}

// pages are those of all engines.
func pages(t testing.TB) map[string][]byte {
	files, err := filepath.Glob("../engine/*/testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d pages, %v", len(files), err)
	}
	out := make(map[string][]byte)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[file] = text
	}
	return out
}

// TestAgainstPrometheus: Prometheus' own parser finds the same values on the pages of all engines.
func TestAgainstPrometheus(t *testing.T) {
	for file, page := range pages(t) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		want := make(map[string]float64)
		for name, family := range families {
			for _, m := range family.Metric {
				switch {
				case m.Gauge != nil:
					want[name] += finite(m.Gauge.GetValue())
				case m.Counter != nil:
					want[name] += finite(m.Counter.GetValue())
				case m.Untyped != nil:
					want[name] += finite(m.Untyped.GetValue())
				case m.Histogram != nil:
					want[name+"_sum"] += m.Histogram.GetSampleSum()
					want[name+"_count"] += float64(m.Histogram.GetSampleCount())
					for _, b := range m.Histogram.Bucket {
						want[name+"_bucket"] += float64(b.GetCumulativeCount())
					}
				}
			}
		}
		got := make(map[string]float64)
		var s promtext.Scanner
		s.Reset(bytes.NewReader(page))
		for s.Next() {
			v, _ := s.Value()
			got[string(s.Name())] += finite(v)
		}
		if s.Err() != nil {
			t.Fatalf("%s: %v", file, s.Err())
		}
		for name, v := range want {
			if got[name] != v {
				t.Errorf("%s: %s is %v, for Prometheus %v", file, name, got[name], v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d metrics, for Prometheus %d", file, len(got), len(want))
		}
	}
}

func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

func TestAllocates(t *testing.T) {
	page := []byte(strings.Repeat("vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"0.3\",model_name=\"a\\\\b\"} 8.128902e+06\n", 200))
	var s promtext.Scanner
	src := bytes.NewReader(page)
	read := func() {
		src.Reset(page)
		s.Reset(src)
		for s.Next() {
			if v, ok := s.Value(); !ok || v != 8.128902e+06 {
				t.Fatal(v, ok)
			}
			if _, ok := s.Label("model_name"); !ok {
				t.Fatal("no label")
			}
		}
	}
	if n := testing.AllocsPerRun(20, read); n != 0 {
		t.Errorf("200 lines allocate %v times", n)
	}
}

func FuzzScanner(f *testing.F) {
	for _, page := range pages(f) {
		f.Add(page[:min(len(page), 4000)])
	}
	f.Add([]byte(`{"a\"b",x="\\"} 1 # {} 2` + "\r\n# EOF"))
	f.Fuzz(func(t *testing.T, page []byte) {
		var s promtext.Scanner
		whole := scan(&s, bytes.NewReader(page), "x", "le", "model_name")
		if pieces := scan(&s, iotest.HalfReader(iotest.OneByteReader(bytes.NewReader(page))), "x", "le", "model_name"); !slices.Equal(whole, pieces) {
			t.Errorf("whole %q\nin pieces %q", whole, pieces)
		}
		for _, line := range whole {
			if line == "" {
				t.Error("a sample without a name")
			}
		}
	})
}

func BenchmarkScanner(b *testing.B) {
	page := pages(b)["../engine/vllm/testdata/v1.txt"]
	for _, all := range []bool{false, true} {
		b.Run(map[bool]string{false: "names", true: "values"}[all], func(b *testing.B) {
			var s promtext.Scanner
			src := bytes.NewReader(page)
			lines := 0
			b.SetBytes(int64(len(page)))
			b.ReportAllocs()
			for b.Loop() {
				src.Reset(page)
				s.Reset(src)
				for lines = 0; s.Next(); lines++ {
					if all {
						s.Value()
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(lines), "ns/sample")
		})
	}
}
