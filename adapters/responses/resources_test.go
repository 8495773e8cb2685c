package responses

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	items := SplitItems([]byte(`[{"id":"msg_a_i0"},{"id":"fc_a_1"},{"id":"msg_a_2"}]`))
	query := func(q string) func(string) string {
		return func(name string) string {
			for _, pair := range strings.Split(q, "&") {
				if k, v, _ := strings.Cut(pair, "="); k == name {
					return v
				}
			}
			return ""
		}
	}
	tests := []struct{ query, want string }{
		{"", `{"object":"list","data":[{"id":"msg_a_2"},{"id":"fc_a_1"},{"id":"msg_a_i0"}],"first_id":"msg_a_2","last_id":"msg_a_i0","has_more":false}`},
		{"order=asc&limit=2", `{"object":"list","data":[{"id":"msg_a_i0"},{"id":"fc_a_1"}],"first_id":"msg_a_i0","last_id":"fc_a_1","has_more":true}`},
		{"order=asc&limit=2&after=fc_a_1", `{"object":"list","data":[{"id":"msg_a_2"}],"first_id":"msg_a_2","last_id":"msg_a_2","has_more":false}`},
		{"order=desc&limit=1&after=fc_a_1", `{"object":"list","data":[{"id":"msg_a_i0"}],"first_id":"msg_a_i0","last_id":"msg_a_i0","has_more":false}`},
		{"after=msg_a_i0", `{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}`},
		{"after=nobody", `after is "nobody", which is no item of this list`},
		{"limit=0", `limit must be a whole number between 1 and 100, not "0"`},
		{"limit=x", `limit must be a whole number between 1 and 100, not "x"`},
		{"order=up", `order must be asc or desc, not "up"`},
	}
	for _, tt := range tests {
		p, err := ParsePage(query(tt.query))
		var got []byte
		if err == nil {
			got, err = AppendList(nil, items, p)
		}
		if err != nil {
			got = []byte(err.Message)
		}
		if string(got) != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.query, got, tt.want)
		}
	}
}

func TestIDs(t *testing.T) {
	tests := []struct{ id, owner string }{
		{InputID(KindMessage, "7f", 0), "7f"}, {InputID(KindOutput, "7f", 12), "7f"}, {string(appendOutputID(nil, KindReasoning, "7f", 3)), "7f"},
		{"msg_7f", ""}, {"msg__", ""}, {"msg", ""}, {"", ""}, {"msg_7f_", ""},
	}
	for _, tt := range tests {
		if owner, ok := Owner(tt.id); owner != tt.owner || ok != (tt.owner != "") {
			t.Errorf("%q belongs to %q %v, want %q", tt.id, owner, ok, tt.owner)
		}
	}
	if id := InputID(KindOutput, "7f", 12); id != "fco_7f_i12" {
		t.Error(id)
	}
}

func TestConversations(t *testing.T) {
	many := `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"role":"user","content":"x"},`, 21), ",") + `]}`
	tests := []struct{ body, want string }{
		{``, `0 `},
		{`{}`, `0 `},
		{`{"metadata":{"a":"b"},"items":[{"role":"user","content":"x"}]}`, `1 {"a":"b"}`},
		{`{"metadata":[]}`, `metadata must be an object of strings, not an array`},
		{many, `items must have at most 20 items at a time`},
		{`{"items":[{"id":"msg_1"}]}`, `items[0].type is item_reference, which cannot be added to a conversation`},
		{`{"items":"x"}`, `items must be an array of items, not a string`},
		{`x`, `the body is not valid JSON: a JSON value was expected at byte 0`},
	}
	for _, tt := range tests {
		items, metadata, err := ParseConversation([]byte(tt.body))
		got := fmt.Sprintf("%d %s", len(items), metadata)
		if err != nil {
			got = err.Message
		}
		if got != tt.want {
			t.Errorf("%s\n got %s\nwant %s", tt.body, got, tt.want)
		}
	}
	if _, err := ParseAdded([]byte(`{}`)); err == nil || err.Message != "items is required and must be an array of items" {
		t.Error(err)
	}
	if items, err := ParseAdded([]byte(`{"items":[{"role":"user","content":"x"}]}`)); err != nil || len(items) != 1 {
		t.Error(items, err)
	}
	got := AppendConversation(nil, &Conversation{ID: "conv_1", Created: 5, Metadata: json.RawMessage(`{"a":"b"}`)})
	if want := `{"id":"conv_1","object":"conversation","created_at":5,"metadata":{"a":"b"}}`; string(got) != want {
		t.Errorf("%s", got)
	}
	if got := string(AppendDeleted(nil, "resp_1", "response")); got != `{"id":"resp_1","object":"response","deleted":true}` {
		t.Error(got)
	}
}
