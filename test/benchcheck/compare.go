package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// Where the line is between noise and a regression. What is done for each token allocates nothing, and any allocation is one more
// for each token: nothing has no tolerance.
const (
	moreAllocs      = 1
	moreAllocsShare = 0.01 // of large numbers, where the order of a map decides about the last ones
	moreBytesShare  = 0.20
	moreBytes       = 64 // of small numbers
)

// verdict is what became of a benchmark.
type verdict string

const (
	worse  verdict = "MORE"
	gone   verdict = "GONE"
	better verdict = "less"
	fresh  verdict = "new"
)

// row is a benchmark of which there is something to say.
type row struct {
	name        string
	verdict     verdict
	before, now result
}

// compare lists the benchmarks that are not as they were: what is worse first.
func compare(before, now results) (rows []row) {
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range now {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, known := before[name]
		is, ran := now[name]
		r := row{name: name, before: was, now: is}
		switch {
		case !ran:
			r.verdict = gone
		case !known:
			r.verdict = fresh
		case exceeds(is, was):
			r.verdict = worse
		case exceeds(was, is):
			r.verdict = better
		default:
			continue
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b row) int { return rank(a.verdict) - rank(b.verdict) })
	return rows
}

func rank(v verdict) int { return slices.Index([]verdict{worse, gone, better, fresh}, v) }

// exceeds says whether a is more than b, beyond noise.
func exceeds(a, b result) bool {
	allocs := b.Allocs
	if allocs > 0 {
		allocs += max(moreAllocs, int64(float64(allocs)*moreAllocsShare))
	}
	bytes := b.Bytes + max(moreBytes, int64(float64(b.Bytes)*moreBytesShare))
	return a.Allocs > allocs || a.Bytes > bytes
}

// printRows prints a table, and gives the number of regressions.
func printRows(out io.Writer, rows []row, all int) (regressions int) {
	count := map[verdict]int{}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range rows {
		if i == 0 {
			fmt.Fprintln(w, "\tallocations\tbytes\tbenchmark")
		}
		count[r.verdict]++
		switch r.verdict {
		case gone:
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", r.verdict, r.before.Allocs, r.before.Bytes, r.name)
		case fresh:
			fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", r.verdict, r.now.Allocs, r.now.Bytes, r.name)
		default:
			fmt.Fprintf(w, "%s\t%d -> %d\t%d -> %d\t%s\n", r.verdict, r.before.Allocs, r.now.Allocs, r.before.Bytes, r.now.Bytes, r.name)
		}
	}
	w.Flush()
	fmt.Fprintf(out, "%d benchmarks: %d allocate more, %d are gone, %d allocate less, %d are not in the baseline.\n",
		all, count[worse], count[gone], count[better], count[fresh])
	if count[better]+count[fresh] > 0 {
		fmt.Fprintln(out, "Run `go run ./test/benchcheck -update` to hold what is better or new.")
	}
	return count[worse] + count[gone]
}
