package key

import (
	"bytes"
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-dev/weir/adapters/jsonx"
)

func form(text string) string {
	var c canonical
	return string(c.of(jsonx.Root([]byte(text))))
}

func TestCanonical(t *testing.T) {
	long := strings.Repeat("x", inlineObject)
	for _, group := range [][]string{
		{`1`, `1.0`, `1e0`, `10e-1`, `0.1E+1`, `0.00100e3`, `1.000`},
		{`0`, `-0`, `0.0`, `0e9`, `-0.0e-7`},
		{`-12.5`, `-125e-1`, `-0.125E2`},
		{`100000000000000000001`, `100000000000000000001.0`},
		{`"é"`, `"\u00e9"`, `"\u00E9"`},
		{`"a/b"`, `"a\/b"`},
		{`{"a":1,"b":[{"c":2,"d":3}]}`, ` { "b" : [ { "d":3.0,"c" : 2 } ] , "a":1 } `, `{"\u0061":1,"b":[{"c":2,"d":3}]}`},
		{`{"a":"` + long + `","b":{"c":"` + long + `","d":1}}`, `{"b":{"d":1.0,"c":"` + long + `"},"a":"` + long + `"}`},
		{`{"properties":{"a":{"x":1,"y":2},"b":3},"type":0}`, `{"type":0,"properties":{"a":{"y":2,"x":1},"b":3}}`},
		{`{"properties":{"b":3,"a":{"x":1,"y":2}},"type":0}`, `{"type":0,"propertie\u0073":{"b":3,"a":{"x":1,"y":2}}}`},
		{`{"properties":[{"a":1,"b":2}]}`, `{"properties":[{"b":2,"a":1}]}`},
		{`{"properties":{"a":"` + long + `","b":1}}`}, {`{"properties":{"b":1,"a":"` + long + `"}}`},
		{`[]`, ` [ ] `}, {`{}`, `{ }`}, {`null`}, {`true`}, {`false`}, {`"null"`}, {`""`},
		{`[1,2]`}, {`[2,1]`}, {`[[1],2]`}, {`[[1,2]]`}, {`{"a":[1],"b":2}`}, {`{"a":[1,2]}`}, {`{"ab":1}`}, {`{"a":{"b":1}}`},
		{`{"a":1,"a":2}`}, {`{"a":2,"a":1}`}, {`100000000000000000002`}, {`1e400`}, {`1e99999999999999999999`}, {`1e99999999999999999998`}, {`12`}, {`1.2`},
	} {
		for i, text := range group {
			for j, other := range group {
				if form(text) != form(other) {
					t.Errorf("%d %d: %s and %s differ", i, j, text, other)
				}
			}
			if form(text) == form(`["other"]`) {
				t.Errorf("%s is like something else", text)
			}
		}
	}
}

// TestCanonicalIsLinear: a body that is nested as deep as it may be, with members in the worst order, costs no more than its length.
func TestCanonicalIsLinear(t *testing.T) {
	const depth = 490
	text := strings.Repeat(`{"z":"`+strings.Repeat("x", 1000)+`","y":1,"a":`, depth) + "1" + strings.Repeat("}", depth)
	if err := jsonx.CheckString(text); err != nil {
		t.Fatal(err)
	}
	var c canonical
	c.of([]byte(text))
	if most := 2 * len(text); cap(c.out) > most {
		t.Errorf("a text of %d bytes took %d", len(text), cap(c.out))
	}
}

// FuzzCanonical: two texts have one form if they are one value, and only then. encoding/json is the judge.
func FuzzCanonical(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[true,null,"x"]}`), []byte(`{"b":[true,null,"\u0078"],"a":1.0}`))
	f.Add([]byte(`[1e3]`), []byte(`[1000]`))
	f.Add([]byte(`{"a":{"b":"`+strings.Repeat("y", 300)+`"}}`), []byte(`{"a":{"b":"`+strings.Repeat("y", 301)+`"}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if jsonx.Check(a) != nil || jsonx.Check(b) != nil {
			return
		}
		var c canonical
		one := bytes.Clone(c.of(jsonx.Root(a)))
		same := bytes.Equal(one, c.of(jsonx.Root(b)))
		x, okX := judge(a)
		y, okY := judge(b)
		if okX && okY && reflect.DeepEqual(x, y) != same {
			t.Fatalf("one form: %v\n%s\n%s", same, a, b)
		}
	})
}

// judge decodes a text; ok is false where encoding/json loses something of it, such as the order of properties.
func judge(text []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if d.Decode(&v) != nil || bytes.Contains(text, []byte(`\u`)) || bytes.Contains(text, []byte("properties")) || count(v) != bytes.Count(text, []byte(`"`)) {
		return nil, false
	}
	return fractions(v)
}

// count tells how many quotation marks a value without escapes has: fewer than its text where a member was given twice.
func count(v any) int {
	n := 0
	switch v := v.(type) {
	case string:
		n = 2
	case []any:
		for _, m := range v {
			n += count(m)
		}
	case map[string]any:
		for _, m := range v {
			n += 2 + count(m)
		}
	}
	return n
}

func fractions(v any) (any, bool) {
	switch v := v.(type) {
	case json.Number:
		if len(v) > 15 {
			return nil, false
		}
		if e := strings.IndexAny(v.String(), "eE"); e >= 0 && len(v)-e > 5 {
			return nil, false // fractions of that size take long
		}
		r, ok := new(big.Rat).SetString(v.String())
		if !ok {
			return nil, false
		}
		return "number " + r.RatString(), true
	case []any:
		for i := range v {
			m, ok := fractions(v[i])
			if !ok {
				return nil, false
			}
			v[i] = m
		}
	case map[string]any:
		for k := range v {
			m, ok := fractions(v[k])
			if !ok {
				return nil, false
			}
			v[k] = m
		}
	}
	return v, true
}
