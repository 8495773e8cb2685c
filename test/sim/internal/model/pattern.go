package model

import (
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"strings"
)

// matching writes a string that matches a pattern. It reports false when the pattern is not RE2 or
// when what it wrote does not match after all (look-around and back references are not RE2).
func matching(pattern string, rnd *rand.Rand) (string, bool) {
	check, err := regexp.Compile(pattern)
	if err != nil {
		return "", false
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return "", false
	}
	var b strings.Builder
	generate(&b, tree.Simplify(), rnd, 0)
	return b.String(), check.MatchString(b.String())
}

// maxPattern bounds what nested repetitions can write, in bytes.
const maxPattern = 4096

func generate(b *strings.Builder, re *syntax.Regexp, rnd *rand.Rand, depth int) {
	if b.Len() > maxPattern || depth > 200 {
		return
	}
	sub := func(i int) { generate(b, re.Sub[i], rnd, depth+1) }
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			b.WriteRune(r)
		}
	case syntax.OpCharClass:
		b.WriteRune(oneOf(re.Rune, rnd))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte(byte('a' + rnd.IntN(26)))
	case syntax.OpCapture, syntax.OpPlus:
		sub(0)
	case syntax.OpStar, syntax.OpQuest:
		if rnd.IntN(2) == 0 {
			sub(0)
		}
	case syntax.OpRepeat:
		for range max(re.Min, min(1, re.Max)) {
			sub(0)
		}
	case syntax.OpConcat:
		for i := range re.Sub {
			sub(i)
		}
	case syntax.OpAlternate:
		sub(rnd.IntN(len(re.Sub)))
	}
}

// oneOf picks a rune of a class, a printable ASCII one when the class has any.
func oneOf(ranges []rune, rnd *rand.Rand) rune {
	var ascii []rune
	for i := 0; i+1 < len(ranges); i += 2 {
		for r := max(ranges[i], ' '); r <= min(ranges[i+1], '~'); r++ {
			ascii = append(ascii, r)
		}
	}
	if len(ascii) > 0 {
		return ascii[rnd.IntN(len(ascii))]
	}
	if len(ranges) == 0 {
		return 'x'
	}
	return ranges[0]
}
