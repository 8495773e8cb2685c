package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weir-dev/weir/test/sim/internal/exchange"
	"github.com/weir-dev/weir/test/sim/internal/jsontree"
)

// Bounds for schemas that describe large, endless or impossible values.
const (
	// maxFitDepth is where optional members and items are left out, so that recursive schemas end.
	maxFitDepth = 6
	// deadEnd is where null is written, for schemas that have no finite value.
	deadEnd = 40
	// softSize is where optional things are left out too, hardSize where null is written, in bytes.
	softSize, hardSize = 16 << 10, 256 << 10
	// maxLength bounds a string in runes.
	maxLength = 10_000
	// maxMerges bounds the parts of allOf in one value.
	maxMerges = 1000
)

// Fit writes a JSON value that fits a JSON schema. It knows types, enum, const, properties,
// required, additionalProperties, minProperties, items, prefixItems, item and length bounds, uniqueItems,
// patterns, common formats, number bounds, multipleOf, anyOf, oneOf, allOf, $ref into the same
// document and nullable. Other keywords (not, if, dependentSchemas, contains) do not influence it.
func Fit(schema *jsontree.Node, rnd *rand.Rand) string {
	f := fitter{root: schema, rnd: rnd}
	f.value(schema, 0)
	return f.b.String()
}

// FitObject is Fit for tool arguments, which are always an object.
func FitObject(schema *jsontree.Node, rnd *rand.Rand) string {
	s := Fit(schema, rnd)
	if !strings.HasPrefix(s, "{") {
		return "{}"
	}
	return s
}

type fitter struct {
	root *jsontree.Node
	rnd  *rand.Rand
	b    strings.Builder
	// merges counts the parts of allOf that were folded; circular ones multiply.
	merges int
}

// resolve follows $ref (at most 16 in a row: a circle of references has no value).
func (f *fitter) resolve(s *jsontree.Node) *jsontree.Node {
	for range 16 {
		ref := s.Get("$ref").Str()
		if ref == "" {
			return s
		}
		t := f.root
		for _, part := range strings.Split(strings.TrimPrefix(ref, "#"), "/") {
			if part == "" {
				continue
			}
			part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
			t = t.Get(part)
		}
		if t == nil {
			return nil
		}
		s = t
	}
	return nil
}

func (f *fitter) value(s *jsontree.Node, depth int) {
	if depth > deadEnd || f.b.Len() > hardSize {
		f.b.WriteString("null")
		return
	}
	if f.b.Len() > softSize {
		depth = max(depth, maxFitDepth)
	}
	s = f.merged(f.resolve(s), 0)
	if c := constant(s); c != nil {
		f.b.Write(c.Raw)
		return
	}
	if enum := s.Get("enum").List(); len(enum) > 0 {
		f.b.Write(enum[f.rnd.IntN(len(enum))].Raw)
		return
	}
	for _, name := range []string{"anyOf", "oneOf"} {
		if list := s.Get(name).List(); len(list) > 0 {
			f.branch(s, list, depth)
			return
		}
	}
	switch f.kind(s, depth) {
	case "object":
		f.object(s, depth)
	case "array":
		f.array(s, depth)
	case "integer":
		f.number(s, true)
	case "number":
		f.number(s, false)
	case "boolean":
		f.b.WriteString(strconv.FormatBool(f.rnd.IntN(2) == 0))
	case "null":
		f.b.WriteString("null")
	default:
		f.quote(f.text(s))
	}
}

// constant returns the const of a schema, which may be null (so Get cannot tell).
func constant(s *jsontree.Node) *jsontree.Node {
	if s == nil {
		return nil
	}
	for _, m := range s.Members {
		if m.Name == "const" {
			return m.Value
		}
	}
	return nil
}

// branch takes one alternative, together with what stands beside it. Deep down it takes one that
// ends: the first without members or items.
func (f *fitter) branch(s *jsontree.Node, list []*jsontree.Node, depth int) {
	pick := list[f.rnd.IntN(len(list))]
	if depth >= maxFitDepth {
		for _, alt := range list {
			if k := f.resolve(alt).Get("type").Str(); k != "" && k != "object" && k != "array" {
				pick = alt
				break
			}
		}
	}
	rest := &jsontree.Node{Kind: jsontree.Obj}
	for _, m := range s.Members {
		if m.Name != "anyOf" && m.Name != "oneOf" {
			rest.Members = append(rest.Members, m)
		}
	}
	f.value(combine(rest, f.resolve(pick)), depth+1)
}

// merged folds allOf into the schema that has it.
func (f *fitter) merged(s *jsontree.Node, depth int) *jsontree.Node {
	all := s.Get("allOf").List()
	if len(all) == 0 || depth > maxFitDepth || f.merges > maxMerges {
		return s
	}
	out := &jsontree.Node{Kind: jsontree.Obj}
	for _, m := range s.Members {
		if m.Name != "allOf" {
			out.Members = append(out.Members, m)
		}
	}
	for _, part := range all {
		f.merges++
		out = combine(out, f.merged(f.resolve(part), depth+1))
	}
	return out
}

// combine joins two schemas that both hold: properties and required add up, of other keywords the second one's wins.
func combine(a, b *jsontree.Node) *jsontree.Node {
	if b == nil {
		return a
	}
	out := &jsontree.Node{Kind: jsontree.Obj}
	out.Members = append(out.Members, a.Members...)
next:
	for _, m := range b.Members {
		for i, have := range out.Members {
			if have.Name != m.Name {
				continue
			}
			v := m.Value
			switch m.Name {
			case "properties":
				v = combine(have.Value, m.Value)
			case "required":
				v = &jsontree.Node{Kind: jsontree.Arr}
				v.Items = append(append(v.Items, have.Value.List()...), m.Value.List()...)
			}
			out.Members[i].Value = v
			continue next
		}
		out.Members = append(out.Members, m)
	}
	return out
}

// kind chooses the JSON type. Without a type the keywords tell it.
func (f *fitter) kind(s *jsontree.Node, depth int) string {
	if list := s.Get("type").Strings(); len(list) > 0 {
		k := list[0]
		if len(list) > 1 {
			k = list[f.rnd.IntN(len(list))]
			if depth >= maxFitDepth {
				k = list[len(list)-1]
			}
		}
		return k
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if s.Get(n) != nil {
				return true
			}
		}
		return false
	}
	switch {
	case has("properties", "required", "additionalProperties", "minProperties"):
		return "object"
	case has("items", "prefixItems", "minItems"):
		return "array"
	case has("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
		return "number"
	}
	return "string"
}

func (f *fitter) object(s *jsontree.Node, depth int) {
	need := map[string]bool{}
	for _, r := range s.Get("required").Strings() {
		need[r] = true
	}
	n := 0
	member := func(name string, schema *jsontree.Node) {
		if n > 0 {
			f.b.WriteByte(',')
		}
		n++
		f.quote(name)
		f.b.WriteByte(':')
		f.value(schema, depth+1)
	}
	f.b.WriteByte('{')
	least := s.Get("minProperties").Int()
	props := s.Get("properties")
	if props != nil {
		for _, m := range props.Members {
			if need[m.Name] || depth < maxFitDepth || n < least {
				delete(need, m.Name)
				member(m.Name, m.Value)
			}
		}
	}
	extra := s.Get("additionalProperties")
	if !extra.Is(jsontree.Obj) {
		extra = nil
	}
	for _, r := range s.Get("required").Strings() {
		if need[r] { // required but not described
			delete(need, r)
			member(r, extra)
		}
	}
	if n == 0 && extra != nil && depth < maxFitDepth {
		least = max(least, 1)
	}
	for i := 0; n < least && f.b.Len() < hardSize; i++ {
		member("key"+strconv.Itoa(i), extra)
	}
	f.b.WriteByte('}')
}

func (f *fitter) array(s *jsontree.Node, depth int) {
	first := s.Get("prefixItems").List()
	item := s.Get("items")
	least := s.Get("minItems").Int()
	n := max(least, 1+f.rnd.IntN(2), len(first))
	if depth >= maxFitDepth {
		n = least
	}
	if m := s.Get("maxItems"); m != nil {
		n = min(n, m.Int())
	}
	if item.False() {
		n = min(n, len(first))
	}
	unique := s.Get("uniqueItems").True()
	seen := map[string]bool{}
	f.b.WriteByte('[')
	for i, tries := 0, 0; i < n && f.b.Len() < hardSize; {
		start := f.b.Len()
		if i > 0 {
			f.b.WriteByte(',')
		}
		at := f.b.Len()
		if i < len(first) {
			f.value(first[i], depth+1)
		} else {
			f.value(item, depth+1)
		}
		if v := f.b.String()[at:]; unique && seen[v] && tries < 64 {
			kept := f.b.String()[:start]
			f.b.Reset()
			f.b.WriteString(kept)
			tries++
			continue
		} else {
			seen[v] = true
		}
		i++
	}
	f.b.WriteByte(']')
}

func (f *fitter) number(s *jsontree.Node, whole bool) {
	low, high := math.Inf(-1), math.Inf(1)
	step := 0.01
	if whole {
		step = 1
	}
	if m := s.Get("multipleOf").Float(); m > 0 {
		step = m
	}
	if v := s.Get("minimum"); v != nil {
		low = v.Float()
	}
	if v := s.Get("exclusiveMinimum"); v.Is(jsontree.Int | jsontree.Num) {
		low = math.Max(low, math.Nextafter(v.Float(), math.Inf(1)))
	} else if v.True() { // draft 4
		low = math.Nextafter(low, math.Inf(1))
	}
	if v := s.Get("maximum"); v != nil {
		high = v.Float()
	}
	if v := s.Get("exclusiveMaximum"); v.Is(jsontree.Int | jsontree.Num) {
		high = math.Min(high, math.Nextafter(v.Float(), math.Inf(-1)))
	} else if v.True() {
		high = math.Nextafter(high, math.Inf(-1))
	}
	switch {
	case math.IsInf(low, -1) && math.IsInf(high, 1):
		low, high = 1, 100
	case math.IsInf(low, -1):
		low = high - 100*step
	case math.IsInf(high, 1):
		high = low + 100*step
	}
	// Whole numbers of steps between the bounds. A range narrower than a step takes its low end.
	from, to := math.Ceil(low/step), math.Floor(high/step)
	v := low
	if from <= to {
		span := math.Min(to-from, 1<<30)
		v = (from + float64(f.rnd.Int64N(int64(span)+1))) * step
	}
	if whole {
		f.b.WriteString(strconv.FormatFloat(math.Round(v), 'f', -1, 64))
		return
	}
	if step == 0.01 && from <= to {
		v = math.Round(v*100) / 100
	}
	f.b.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
}

func (f *fitter) text(s *jsontree.Node) string {
	if p := s.Get("pattern").Str(); p != "" {
		if t, ok := matching(p, f.rnd); ok {
			return t
		}
	}
	if t, ok := formatted(s.Get("format").Str(), f.rnd); ok {
		return t
	}
	t := words[f.rnd.IntN(len(words))] + " " + words[f.rnd.IntN(len(words))]
	for least := min(s.Get("minLength").Int(), maxLength); utf8.RuneCountInString(t) < least; {
		t += " " + words[f.rnd.IntN(len(words))]
	}
	if m := s.Get("maxLength"); m != nil {
		if r := []rune(t); len(r) > m.Int() {
			t = string(r[:max(m.Int(), 0)])
		}
	}
	return t
}

// formatted writes a string of a named format.
func formatted(format string, rnd *rand.Rand) (string, bool) {
	date := fmt.Sprintf("20%02d-%02d-%02d", rnd.IntN(30), 1+rnd.IntN(12), 1+rnd.IntN(28))
	clock := fmt.Sprintf("%02d:%02d:%02dZ", rnd.IntN(24), rnd.IntN(60), rnd.IntN(60))
	switch format {
	case "date":
		return date, true
	case "time":
		return clock, true
	case "date-time":
		return date + "T" + clock, true
	case "duration":
		return fmt.Sprintf("PT%dM", 1+rnd.IntN(59)), true
	case "email":
		return fmt.Sprintf("user%d@example.com", rnd.IntN(1000)), true
	case "uri", "url", "uri-reference":
		return fmt.Sprintf("https://example.com/%d", rnd.IntN(1000)), true
	case "hostname":
		return fmt.Sprintf("host%d.example.com", rnd.IntN(1000)), true
	case "ipv4":
		return fmt.Sprintf("192.0.2.%d", rnd.IntN(256)), true
	case "ipv6":
		return fmt.Sprintf("2001:db8::%x", 1+rnd.IntN(65535)), true
	case "uuid":
		return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rnd.Uint32(), rnd.IntN(1<<16), rnd.IntN(1<<12), rnd.IntN(1<<12), rnd.Int64N(1<<48)), true
	}
	return "", false
}

func (f *fitter) quote(s string) { f.b.Write(exchange.Encode(s)) }
