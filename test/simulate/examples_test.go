package simulate

import (
	"path/filepath"
	"slices"
	"testing"
)

// TestExamples runs the scenarios that are shipped with their first seed, as far as their bars need it, and demands that no bar
// is missed: `weir simulate --check` does so with all seeds.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../deploy/examples/simulate/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 4 {
		t.Fatalf("found only %v", files)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			s, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Bars) == 0 || len(s.Seeds) < 5 {
				t.Errorf("%d bars and %d seeds", len(s.Bars), len(s.Seeds))
			}
			s.Seeds = s.Seeds[:1]
			s.Policies = slices.DeleteFunc(s.Policies, func(p Policy) bool {
				return !slices.ContainsFunc(s.Bars, func(b Bar) bool { return b.Policy == p.Name || b.Against == p.Name })
			})
			for _, v := range compare(t, s).Bars {
				t.Logf("%s  %s", v.word(), v.sentence())
				if !v.Pass {
					t.Errorf("missed: %s", v.sentence())
				}
			}
		})
	}
}
