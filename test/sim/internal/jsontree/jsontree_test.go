package jsontree

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	n, repeated, err := Parse([]byte(` {"a":1,"b":{"x":[1.0,"\u00e9\n",null,true]},"a":2,"b":{"x":[false],"x":[-5e3]}} `))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(repeated, []string{"a", "b.x", "b"}) {
		t.Errorf("repeated: %v", repeated)
	}
	if n.Get("a").Int() != 2 || n.At("b", "x").Items[0].Float() != -5000 {
		t.Error("the last value does not win")
	}
	if n.Get("nothing").Get("more").Str() != "" || n.Get("a").True() {
		t.Error("absent values are not harmless")
	}
	for raw, want := range map[string]Kind{"1": Int, "-0": Int, "1.0": Num, "1e2": Num, `"a"`: Str, "null": Null, "true": Bool, "[]": Arr, "{}": Obj} {
		if n, _, err := Parse([]byte(raw)); err != nil || n.Kind != want || string(n.Raw) != raw {
			t.Errorf("%s: %v, %v", raw, n, err)
		}
	}
	for _, raw := range []string{"", " ", "{", `{"a"}`, "[1,]", "01", `"a`, "nul", "1 2", "\"\xff\"", strings.Repeat("[", 600) + strings.Repeat("]", 600)} {
		if _, _, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%.20q is accepted", raw)
		}
	}
}

// plain turns a tree into what encoding/json decodes.
func plain(n *Node) any {
	switch n.Kind {
	case Bool:
		return n.True()
	case Int, Num:
		return json.Number(n.Raw)
	case Str:
		return n.Text
	case Arr:
		out := []any{}
		for _, it := range n.Items {
			out = append(out, plain(it))
		}
		return out
	case Obj:
		out := map[string]any{}
		for _, m := range n.Members {
			out[m.Name] = plain(m.Value)
		}
		return out
	}
	return nil
}

// FuzzParse holds that the tree is what encoding/json reads.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,"x\"y\\",{}],"a":null}`, `"\ud83d\ude00"`, `[[],[[]]]`, ` 1 `, `{"":{"":""}}`, `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _, err := Parse(b)
		if err != nil {
			return
		}
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		if got := plain(n); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %v, want %v", b, got, want)
		}
	})
}
