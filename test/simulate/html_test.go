package simulate

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestHTML(t *testing.T) {
	s := parse(t, strings.Replace(small, "duration: 10s", "duration: 10s\nname: A <b> & c", 1)+`
policies:
- {kind: roundRobin, name: "turns & <script>alert(1)</script>"}
- weirWeights
bars: [{metric: throughput, policy: weirWeights, against: "turns & <script>alert(1)</script>", min: 5}]
`)
	r := compare(t, s)
	var b bytes.Buffer
	if err := WriteHTML(&b, []*Report{r, r}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, "<script") || strings.Contains(text, "A <b>") {
		t.Error("names of the scenario are not escaped")
	}
	// It must open without a network: the only addresses are those of SVG's namespaces.
	for _, address := range regexp.MustCompile(`(?:https?:)?//[a-z][^\s"'<>]*`).FindAllString(text, -1) {
		if !strings.HasPrefix(address, "http://www.w3.org/") {
			t.Errorf("the page names %s", address)
		}
	}
	// Three charts over all policies and one of weights, in two colour schemes, for each report.
	svgs := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(svgs) != 2*2*4 {
		t.Errorf("%d charts", len(svgs))
	}
	for i, svg := range svgs {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("chart %d is no XML: %v", i, err)
			}
		}
		if !strings.Contains(svg, "<path") {
			t.Errorf("chart %d has no lines", i)
		}
	}
	for _, want := range []string{"prefers-color-scheme: dark", "MISS", "tokens/s", "weirWeights", "Weights: weirWeights", "server 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not contain %q", want)
		}
	}
}

func TestHTMLIsTheSameAgain(t *testing.T) {
	page := func() string {
		var b bytes.Buffer
		if err := WriteHTML(&b, []*Report{compare(t, parse(t, small+"policies: [roundRobin]\n"))}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if first, again := page(), page(); first != again {
		t.Error("the same report gives another page")
	}
}

func TestHTMLOfAlmostNothing(t *testing.T) {
	// One part of a millisecond, without a request that has an answer.
	s := parse(t, strings.Replace(small, "duration: 10s", "duration: 1ms", 1)+"policies: [roundRobin, weir]\n")
	var b bytes.Buffer
	if err := WriteHTML(&b, []*Report{compare(t, s)}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "<svg"); n != 2*4 {
		t.Errorf("%d charts, want 8", n)
	}
}
