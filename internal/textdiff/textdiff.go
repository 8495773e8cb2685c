// Package textdiff compares two texts by their lines.
package textdiff

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
)

const (
	// maxLines of a text are compared.
	maxLines = 20000
	context  = 3
	// blockLines are compared at once: what it takes rises with their square, and a configuration that goes live waits for it.
	blockLines = 400
)

// Unified compares two texts of what has a name, as "diff -u" does; "" is a text of no line. No more than about most bytes are shown.
func Unified(name, before, after string, most int) string {
	a, b := lines(before), lines(after)
	if len(a) > maxLines || len(b) > maxLines {
		return fmt.Sprintf("It has %d lines and had %d: too many to compare.\n", len(b), len(a))
	}
	// What is the same at both ends is left out, so that the blocks of what one line was added to fit each other.
	from, both := 0, min(len(a), len(b))
	for from < both && a[from] == b[from] {
		from++
	}
	tail := 0
	for tail < both-from && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	from, tail = max(0, from-context), max(0, tail-context)
	a, b = a[:len(a)-tail], b[:len(b)-tail]
	var out strings.Builder
	for ; from < max(len(a), len(b)) && out.Len() <= most; from += blockLines {
		out.WriteString(hunks(block(a, from), block(b, from), from))
	}
	head := "--- before/" + name + "\n+++ after/" + name + "\n"
	if out.Len() <= most {
		return head + out.String()
	}
	text := out.String()[:most]
	return head + text[:strings.LastIndexByte(text, '\n')+1] + "... and more lines\n"
}

// block are the lines to compare from one on, as far as there are any.
func block(lines []string, from int) []string {
	return lines[min(from, len(lines)):min(from+blockLines, len(lines))]
}

// hunks compares lines that so many stand before.
func hunks(a, b []string, before int) string {
	if slices.Equal(a, b) {
		return ""
	}
	var out strings.Builder
	m := difflib.NewMatcher(a, b)
	for _, group := range m.GetGroupedOpCodes(context) {
		first, last := group[0], group[len(group)-1]
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", rangeOf(before+first.I1, before+last.I2), rangeOf(before+first.J1, before+last.J2))
		for _, c := range group {
			if c.Tag == 'e' {
				write(&out, " ", a[c.I1:c.I2])
				continue
			}
			write(&out, "-", a[c.I1:c.I2])
			write(&out, "+", b[c.J1:c.J2])
		}
	}
	return out.String()
}

func write(to *strings.Builder, mark string, lines []string) {
	for _, l := range lines {
		to.WriteString(mark + l)
	}
}

// rangeOf writes which lines are meant, as "diff -u" does: of one its number, of none that of the line before.
func rangeOf(from, to int) string {
	switch n := to - from; n {
	case 0:
		return fmt.Sprintf("%d,0", from)
	case 1:
		return strconv.Itoa(to)
	default:
		return fmt.Sprintf("%d,%d", from+1, n)
	}
}

// lines splits a text after each line break. An empty text has none.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimSuffix(s, "\n")+"\n", "\n")[:strings.Count(strings.TrimSuffix(s, "\n"), "\n")+1]
}
