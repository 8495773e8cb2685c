package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// baseline is what a later run is compared with: CPU time for a request as multiples of what bare Envoy and the floor took in the same run.
// It has no absolute figures, so that it means something on any machine.
type baseline struct {
	// Scenario to variant to "envoy" or "floor" to multiple.
	CPU map[string]map[string]map[string]float64 `json:"cpuRatios"`
}

// noise is how much larger a multiple may be than in the baseline.
const noise = 0.25

func (r *report) baseline() baseline {
	b := baseline{CPU: map[string]map[string]map[string]float64{}}
	for _, o := range r.Outcomes {
		if o.Scenario.Kind == heldLoad { // has no requests that come and go
			continue
		}
		of := map[string]map[string]float64{}
		for _, c := range o.Cells {
			if c.Variant == bareName || c.Variant == floorName {
				continue
			}
			ratios := map[string]float64{}
			for _, base := range []string{bareName, floorName} {
				if other := o.cell(base); other != nil {
					ratios[base] = round(c.against(other, (*sample).gatewayCPU, ratio))
				}
			}
			of[c.Variant] = ratios
		}
		b.CPU[o.Scenario.Name] = of
	}
	return b
}

// round to two decimals: more would be noise in a file that is committed.
func round(x float64) float64 { return float64(int(x*100+0.5)) / 100 }

func readBaseline(path string) (b baseline, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return b, fmt.Errorf("%s is not a baseline: %w", path, err)
	}
	if len(b.CPU) == 0 {
		return b, fmt.Errorf("%s has no figures: write it with -baseline", path)
	}
	return b, nil
}

func (b baseline) write(path string) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// check compares what was measured, says on w what is better, and returns what is worse as an error. A variant is worse where it is by
// more than noise against bare Envoy and against the floor: against one of them alone, that one was disturbed.
func (b baseline) check(now baseline, w io.Writer) error {
	var worse []error
	compared := 0
	for _, s := range scenarios() {
		then, measured := b.CPU[s.Name], now.CPU[s.Name]
		if measured == nil {
			continue
		}
		for _, v := range takingPart(s) {
			ratios := measured[v.name]
			if ratios == nil {
				continue
			}
			if len(then[v.name]) == 0 {
				worse = append(worse, fmt.Errorf("%s, %s: the baseline does not have it; write a new one with -baseline", s.Name, v.name))
				continue
			}
			compared++
			least, most, text := growth(then[v.name], ratios)
			switch {
			case least > 1+noise:
				worse = append(worse, fmt.Errorf("%s, %s: CPU for a request is %s", s.Name, v.name, text))
			case most < 1/(1+noise):
				fmt.Fprintf(w, "better: %s, %s: CPU for a request is %s\n", s.Name, v.name, text)
			}
		}
	}
	if compared == 0 && len(worse) == 0 {
		return errors.New("nothing that was measured is in the baseline")
	}
	if len(worse) > 0 {
		return fmt.Errorf("dearer than the baseline by more than %.0f %%:\n%w", 100*noise, errors.Join(worse...))
	}
	fmt.Fprintf(w, "%d figures are no dearer than the baseline, within %.0f %%\n", compared, 100*noise)
	return nil
}

// growth is by what the multiples have grown, at least and at most, and what they are in words.
func growth(then, now map[string]float64) (least, most float64, text string) {
	for _, base := range []string{bareName, floorName} {
		a, b := then[base], now[base]
		if a == 0 || b == 0 {
			continue
		}
		g := b / a
		if text == "" {
			least, most = g, g
		} else {
			text += ", "
		}
		least, most = min(least, g), max(most, g)
		text += fmt.Sprintf("%.2f times %s's and was %.2f", b, base, a)
	}
	return least, most, text
}
