package responses

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-dev/weir/extproc/session"
)

// TestLogText: what is written is what encoding/json reads and would have written, and is read again.
func TestLogText(t *testing.T) {
	item := json.RawMessage(`[{"type":"message","content":"a \"b\" <c> \u00e4"}]`)
	for _, l := range []log{
		{},
		{Conversation: &conversation{Created: 7}},
		{Conversation: &conversation{Created: 7, Metadata: json.RawMessage(`{"a":"b"}`)}, Turns: []turn{{ID: "1", Input: item}}},
		{Turns: []turn{{ID: "1", Input: item, Output: item, Object: json.RawMessage(`{"id":"x"}`)}, {ID: "2", Parent: "1", Output: json.RawMessage(`[]`)}, {ID: "3", Parent: "2"}}},
	} {
		text, err := l.text()
		if err != nil {
			t.Fatal(err)
		}
		var by log
		if err := json.Unmarshal(text, &by); err != nil || !reflect.DeepEqual(by, l) {
			t.Errorf("%v: %s is %+v", err, text, by)
		}
		got, err := readLog(&session.Session{Responses: text})
		if err != nil || !reflect.DeepEqual(got, &l) {
			t.Errorf("%v: %s is read as %+v", err, text, got)
		}
		if len(text) > l.size() {
			t.Errorf("it has %d bytes, and not at most %d", len(text), l.size())
		}
		want, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.NewReplacer("<", `\u003c`, ">", `\u003e`).Replace(string(text)); got != string(want) {
			t.Errorf("it is\n%s\nnot\n%s", got, want)
		}
	}
}

// FuzzLog: whatever is kept, it is refused, or read as encoding/json reads it.
func FuzzLog(f *testing.F) {
	f.Add([]byte(`{"conversation":{"created":1,"metadata":{}},"turns":[{"id":"1","parent":"2","input":[],"output":[{}],"object":{}}]}`))
	f.Add([]byte(`{"turns":[{},{"id":"\u0061"}]}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"turns":null,"conversation":null,"more":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readLog(&session.Session{Responses: text})
		if err != nil {
			return
		}
		again, err := got.text()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := readLog(&session.Session{Responses: again}); err != nil || len(back.Turns) != len(got.Turns) {
			t.Fatalf("%s is read, and written as %s: %v", text, again, err)
		}
	})
}
