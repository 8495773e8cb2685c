package jsonx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendString(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", `""`},
		{"plain", `"plain"`},
		{"a\"b\\c/d", `"a\"b\\c/d"`},
		{"\n\r\t\b\f\x00\x1f\x7f", "\"\\n\\r\\t\\u0008\\u000c\\u0000\\u001f\x7f\""},
		{"Grüße 🌍 <&>\u2028", "\"Grüße 🌍 <&>\u2028\""},
		{"a\xffb\xe2\x82", "\"a\ufffdb\ufffd\ufffd\""},
		{"\xed\xa0\x80", "\"\ufffd\ufffd\ufffd\""}, // an encoded surrogate is no UTF-8
		{"\ufffd", "\"\ufffd\""},
	}
	for _, tt := range tests {
		if got := string(AppendString([]byte("x"), tt.in)); got != "x"+tt.want {
			t.Errorf("AppendString(%q) = %s, want x%s", tt.in, got, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2)
	tests := []struct{ in, want string }{ // want "" means accepted
		{`{}`, ""}, {` [ ] `, ""}, {`{"a":[1,-0.5e+3,true,false,null,"x\u00e9\n"],"b":{}}`, ""}, {`0`, ""},
		{``, "unexpected end of the JSON text at byte 0"},
		{`{`, "unexpected end of the JSON text at byte 1"},
		{`{"a":1`, "unexpected end of the JSON text at byte 6"},
		{`{"a":1,}`, "a member name in double quotes was expected at byte 7"},
		{`[1,]`, "a JSON value was expected at byte 3"},
		{`{a:1}`, "a member name in double quotes was expected at byte 1"},
		{`{"a" 1}`, "':' was expected at byte 5"},
		{`{"a":1 "b":2}`, "',' or '}' was expected at byte 7"},
		{`[1 2]`, "',' or ']' was expected at byte 3"},
		{`01`, "more data after the JSON value at byte 1"},
		{`{} {}`, "more data after the JSON value at byte 3"},
		{`-`, "unexpected end of the JSON text at byte 1"},
		{`1.x`, "a digit was expected at byte 2"},
		{`1e+`, "unexpected end of the JSON text at byte 3"},
		{`-x`, "a digit was expected at byte 1"},
		{`tru`, "unexpected end of the JSON text at byte 3"},
		{`nuLl`, "'null' was expected at byte 2"},
		{`NaN`, "a JSON value was expected at byte 0"},
		{"\"a\nb\"", "an unescaped control character in a string at byte 2"},
		{`"\x"`, "an unknown escape in a string at byte 2"},
		{`"\u12g4"`, "four hex digits were expected after \\u at byte 5"},
		{`"abc`, "unexpected end of the JSON text at byte 4"},
		{"{\"a\":\"\xff\"}", "invalid UTF-8 at byte 6"},
		{deep, "too deeply nested at byte 501"},
	}
	for _, tt := range tests {
		got := ""
		if err := Check([]byte(tt.in)); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("Check(%.40q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestValue(t *testing.T) {
	v := Root([]byte(` { "a" : [ 1 , "x,]}\\" , {"y":[]} ] , "b\u0063" : -2.5, "t":true,"n":null, "e":"\"\\\/\b\f\n\r\t\u00e9\ud83c\udf0d\ud83c\u0041" } `))
	var got []string
	for k, m := range v.Members() {
		got = append(got, fmt.Sprintf("%s=%s:%s", k, m.Kind(), m))
	}
	want := []string{
		`a=an array:[ 1 , "x,]}\\" , {"y":[]} ]`, `bc=a number:-2.5`, `t=a boolean:true`, `n=null:null`,
		`e=a string:"\"\\\/\b\f\n\r\t\u00e9\ud83c\udf0d\ud83c\u0041"`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("members:\n got %q\nwant %q", got, want)
	}
	if s := v.Get("e").Str(); s != "\"\\/\b\f\n\r\té🌍\ufffdA" {
		t.Errorf("Str = %q", s)
	}
	scratch := []byte("left over")
	if e := v.Get("e"); e.Lend(&scratch) != e.Str() || e.Share() != e.Str() {
		t.Errorf("Lend gives %q, Share %q, Str %q", e.Lend(&scratch), e.Share(), e.Str())
	}
	if n := v.Get("n"); n.Lend(&scratch)+n.Share()+n.Str() != "" || v.Get("a").Share() != "" {
		t.Error("what is no string is one")
	}
	if s := v.Get("a").Text(); s != `[ 1 , "x,]}\\" , {"y":[]} ]` {
		t.Errorf("Text = %s", s)
	}
	if n := v.Get("a").Len(); n != 3 {
		t.Errorf("Len = %d, want 3", n)
	}
	if f, ok := v.Get("bc").Float(); f != -2.5 || !ok {
		t.Errorf("Float = %v, %v", f, ok)
	}
	if _, ok := v.Get("bc").Int(); ok {
		t.Error("Int took -2.5")
	}
	if b, ok := v.Get("t").Bool(); !b || !ok {
		t.Errorf("Bool = %v, %v", b, ok)
	}
	if !v.Get("n").Missing() || !v.Get("zz").Missing() || v.Get("t").Missing() {
		t.Error("Missing is wrong")
	}
}

func TestSetString(t *testing.T) {
	tests := []struct{ in, want, err string }{
		{`{"model":"a"}`, `{"model":"b\"c"}`, ""},
		{" \n{ \"x\" : {\"model\":\"in\"}, \"model\" : \"a\" ,\"z\":1.0e2}\n ", " \n{ \"x\" : {\"model\":\"in\"}, \"model\" : \"b\\\"c\" ,\"z\":1.0e2}\n ", ""},
		{`{"mod\u0065l":"a"}`, `{"mod\u0065l":"b\"c"}`, ""},
		{`{"model":"a","mod\u0065l":"b"}`, "", `the body has the member "model" more than once`},
		{`{"model":"a","model":"a"}`, "", `the body has the member "model" more than once`},
		{`{"model":7}`, "", "model must be a string, not a number"},
		{`{"x":1}`, "", "model is required"},
		{`{}`, "", "model is required"},
		{`["model"]`, "", "the body must be a JSON object, not an array"},
		{`{"model":"a"`, "", "the body is not valid JSON: unexpected end of the JSON text at byte 12"},
		{``, "", "the body is not valid JSON: unexpected end of the JSON text at byte 0"},
	}
	for _, tt := range tests {
		got, err := SetString([]byte(tt.in), "model", `b"c`)
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		if string(got) != tt.want || msg != tt.err {
			t.Errorf("SetString(%s) = %s, %q; want %s, %q", tt.in, got, msg, tt.want, tt.err)
		}
	}
}

// walk rebuilds a value from what the walkers give, in the types of encoding/json.
func walk(v Value) any {
	switch v.Kind() {
	case Object:
		m := map[string]any{}
		for k, e := range v.Members() {
			m[string(k)] = walk(e)
		}
		return m
	case Array:
		a := []any{}
		for _, e := range v.Elements() {
			a = append(a, walk(e))
		}
		return a
	case String:
		return v.Str()
	case Number:
		return json.Number(v)
	case Bool:
		b, _ := v.Bool()
		return b
	}
	return nil
}

// FuzzCheck holds Check and the walkers against encoding/json.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,true,null,"x\u00e9\n"]}`, `[]`, `"\ud83c\udf0d\\\""`, `{"":{"":[{}]}}`, " 1 ", `{"a`, `01`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		want := utf8.Valid(body) && json.Valid(body)
		got := Check(body) == nil
		if got != want {
			if !got && bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > maxDepth {
				return
			}
			t.Fatalf("Check says %v, encoding/json %v", got, want)
		}
		if !got {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var tree any
		if err := d.Decode(&tree); err != nil {
			t.Fatal(err)
		}
		root := Root(body)
		if w := walk(root); !reflect.DeepEqual(w, tree) {
			t.Fatalf("walked %#v, encoding/json has %#v", w, tree)
		}
		fields := root.Fields()
		for k := range root.Members() {
			if got, want := fields.Get(string(k)), root.Get(string(k)); string(got) != string(want) {
				t.Fatalf("Fields have %s as %q, Get as %q", got, k, want)
			}
		}
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\x00\xff🌍")
	f.Fuzz(func(t *testing.T, s string) {
		out := AppendString(nil, s)
		if err := Check(out); err != nil {
			t.Fatal(err)
		}
		if got, want := Root(out).Str(), string([]rune(s)); got != want {
			t.Fatalf("came back as %q, want %q", got, want)
		}
	})
}

func FuzzSetString(f *testing.F) {
	f.Add([]byte(`{"x":[{"model":"q"}],"model":"a"}`), "b")
	f.Add([]byte(` {"mod\u0065l" : "a" , "y":"\\\""}`), "\"")
	f.Fuzz(func(t *testing.T, body []byte, value string) {
		out, err := SetString(body, "model", value)
		if err != nil {
			return
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(body, &before) != nil || json.Unmarshal(out, &after) != nil {
			t.Fatalf("accepted %q, gave %q", body, out)
		}
		before["model"] = AppendString(nil, value)
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("%q became %q", body, out)
		}
	})
}

func BenchmarkSetString30MB(b *testing.B) {
	body := []byte(`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` +
		strings.Repeat("iVBORw0K", 30<<20/8) + `"}}]}],"model":"a"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := SetString(body, "model", "b"); err != nil {
			b.Fatal(err)
		}
	}
}
