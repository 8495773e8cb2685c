package textdiff

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

const most = 16 << 10

func compared(before, after string) string { return Unified("a", before, after, most) }

// TestUnified: what is shown is bounded, and numbered as "diff -u" does.
func TestUnified(t *testing.T) {
	var a, b strings.Builder
	for i := range 4000 {
		fmt.Fprintln(&a, "line", i)
		fmt.Fprintln(&b, "other", i)
	}
	if d := compared(a.String(), b.String()); len(d) > most+100 || !strings.HasSuffix(d, " more lines\n") {
		t.Errorf("%d bytes, ending in %q", len(d), d[len(d)-40:])
	}
	if d := compared(a.String(), strings.Repeat("x\n", maxLines+1)); !strings.Contains(d, "too many to compare") {
		t.Errorf("%.100q", d)
	}
	if d := compared(a.String(), a.String()+"last\n"); !strings.HasSuffix(d, "@@ -3998,3 +3998,4 @@\n line 3997\n line 3998\n line 3999\n+last\n") {
		t.Errorf("%q", d)
	}
	if d := compared(a.String(), strings.Replace(strings.Replace(a.String(), "line 10\n", "", 1), "line 3000\n", "new\n", 1)); !strings.Contains(d, "\n-line 10\n") || !strings.Contains(d, "\n+new\n") {
		t.Errorf("%q", d)
	}
	if d := compared("", "a: 1\nb: 2\n"); !strings.HasSuffix(d, "@@ -0,0 +1,2 @@\n+a: 1\n+b: 2\n") {
		t.Errorf("%q", d)
	}
}

// TestDiffBlocks: many lines are not compared at once. What that takes rises with their square, and a configuration goes live after it.
func TestDiffBlocks(t *testing.T) {
	most := 0
	for line := range strings.SplitSeq(compared(strings.Repeat("a\n", 3*blockLines), strings.Repeat("b\n", 3*blockLines)), "\n") {
		var from, n int
		if _, err := fmt.Sscanf(line, "@@ -%d,%d", &from, &n); err == nil {
			most = max(most, n)
		}
	}
	if most != blockLines {
		t.Errorf("%d lines are compared at once", most)
	}
}

// TestDiffIsAPatch: whatever has changed, the text before becomes the text after by it.
func TestDiffIsAPatch(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var a, b []string
		for range rnd.IntN(3 * blockLines) {
			a = append(a, fmt.Sprintf("line %d\n", rnd.IntN(50)))
		}
		edits := 1 + rnd.IntN(6)
		for _, l := range a {
			switch rnd.IntN(max(1, len(a)) * 3 / edits) {
			case 0:
				continue
			case 1:
				b = append(b, "changed\n")
			case 2:
				b = append(b, l, "added\n")
			default:
				b = append(b, l)
			}
		}
		d := compared(strings.Join(a, ""), strings.Join(b, ""))
		if got := patched(t, a, d); got != strings.Join(b, "") {
			t.Fatalf("seed %d: the difference does not lead from one to the other:\n%s", seed, d)
		}
	}
}

// patched applies a unified diff.
func patched(t *testing.T, to []string, diff string) string {
	t.Helper()
	var out []string
	at := 0 // lines of to that are done
	for _, l := range strings.SplitAfter(diff, "\n")[2:] {
		switch {
		case l == "":
		case l[0] == '@':
			from, n := 0, 1
			text, _, _ := strings.Cut(strings.TrimPrefix(l, "@@ -"), " ")
			if fmt.Sscanf(text, "%d,%d", &from, &n); n > 0 {
				from--
			}
			out = append(out, to[at:from]...)
			at = from
		case l[0] == '+':
			out = append(out, l[1:])
		default:
			if at >= len(to) || to[at] != l[1:] {
				t.Fatalf("line %d is not %q", at+1, l[1:])
			}
			if at++; l[0] == ' ' {
				out = append(out, l[1:])
			}
		}
	}
	return strings.Join(append(out, to[at:]...), "")
}
