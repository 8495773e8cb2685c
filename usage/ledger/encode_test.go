package ledger

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestEntryRoundTrip sets every field, so that one which is not written cannot hide.
func TestEntryRoundTrip(t *testing.T) {
	full := entry("e1")
	full.Tokens.CacheWrite = 4
	full.Flags = Flags{true, true, true, true, true, true, true}
	full.Cache, full.Purpose = "miss", "summary"
	full.Void = true
	full.SavedTokens, full.SavedCost = Tokens{1, 2, 3, 4, 5}, 6
	noZero(t, reflect.ValueOf(full), "Entry")
	fullIntent := intent("i1")
	fullIntent.Namespace, fullIntent.Backend, fullIntent.UpstreamModel, fullIntent.RequestID = "a", "b", "c", "r"
	fullIntent.Operation, fullIntent.Dialect, fullIntent.Stream, fullIntent.Unpriced = "chat", "d", true, true
	fullIntent.Tokens = Tokens{1, 2, 3, 4, 5}
	fullIntent.Cache, fullIntent.Purpose = "miss", "refresh"
	noZero(t, reflect.ValueOf(fullIntent), "Intent")

	for _, e := range []Entry{full, {ID: "x", Time: start}, entry(`"\ü` + "\x00\n\u2028")} {
		var back Entry
		line := appendEntry(nil, &e)
		if err := decodeEntry(line, &back); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if !reflect.DeepEqual(back, e) {
			t.Errorf("%s was read as\n%+v, not\n%+v", line, back, e)
		}
		// The names are those of the type's tags: what others read with encoding/json is the same.
		theirs, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(line, &a) != nil || json.Unmarshal(theirs, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("written as\n%s\nnot as\n%s", line, theirs)
		}
	}
	var back Intent
	if err := decodeIntent(appendIntent(nil, &fullIntent), &back); err != nil || !reflect.DeepEqual(back, fullIntent) {
		t.Errorf("%+v was read as %+v, %v", fullIntent, back, err)
	}
}

func noZero(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]() {
		for i := range v.NumField() {
			noZero(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
		return
	}
	if v.IsZero() {
		t.Errorf("%s is not set in this test", path)
	}
}

func TestInterruptedKeepsEverything(t *testing.T) {
	in := intent("i")
	e := in.Interrupted()
	if !e.Interrupted || !e.Estimated || e.ID != in.ID || e.Cost != in.Cost || e.Tokens != in.Tokens || e.Credential != in.Credential || e.Gateway != in.Gateway {
		t.Errorf("%+v", e)
	}
}

func TestTextsAreBounded(t *testing.T) {
	e := entry("e")
	e.Model = strings.Repeat("ü", maxText)
	e.Consumer = strings.Repeat("\x01", 10*maxText)
	line := appendEntry(nil, &e)
	var back Entry
	if err := decodeEntry(line, &back); err != nil {
		t.Fatal(err)
	}
	if back.Model != strings.Repeat("ü", maxText/2) || len(back.Consumer) != maxText {
		t.Errorf("%d bytes of the model, %d of the consumer", len(back.Model), len(back.Consumer))
	}
	all := Entry{Time: start}
	for _, p := range []*string{
		&all.ID, &all.RequestID, &all.Tenant, &all.Namespace, &all.Consumer, &all.Credential, &all.Gateway, &all.Route, &all.Backend,
		&all.Model, &all.UpstreamModel, &all.Operation, &all.Dialect, &all.Currency, &all.PriceVersion,
	} {
		*p = e.Consumer
	}
	if n := len(appendEntry(nil, &all)); n > maxLine {
		t.Errorf("the longest line has %d bytes, and only %d are read", n, maxLine)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, line := range []string{
		``, `{`, `null`, `[]`, `{}`, `{"id":"x"}`, `{"id":"","time":"2026-01-01T00:00:00Z"}`,
		`{"id":"x","time":"yesterday"}`, `{"id":"x","time":"2026-01-01T00:00:00Z","costNanos":-1}`,
		`{"id":"x","time":"2026-01-01T00:00:00Z","costNanos":1.5}`,
		`{"id":"x","time":"2026-01-01T00:00:00Z","tokens":{"input":-1}}`,
		`{"id":"x","time":"2026-01-01T00:00:00Z"}{}`, "\x00\x00\x00",
	} {
		var e Entry
		if decodeEntry([]byte(line), &e) == nil {
			t.Errorf("%q is taken as an entry", line)
		}
		var in Intent
		if decodeIntent([]byte(line), &in) == nil {
			t.Errorf("%q is taken as an intent", line)
		}
	}
	var e Entry
	if err := decodeEntry([]byte(`{"id":"x","time":"2026-01-01T00:00:00Z","of a later version":{"a":[1]}}`), &e); err != nil {
		t.Errorf("a field that is not known: %v", err)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("id", "model", int64(1), int64(2))
	f.Add("\xff\xfe", "\"\\\n\x7f\u2028\U0001F600", int64(-1), int64(1)<<62)
	f.Add(strings.Repeat("é", 600), strings.Repeat("\xe2\x82", 600), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, id, text string, n, cost int64) {
		e := Entry{ID: id, Time: time.Unix(n%(1<<32), n%1e9), Model: text, Tenant: text, Tokens: Tokens{Output: cost}, Cost: cost}
		line := appendEntry(nil, &e)
		if bytes.IndexByte(line, '\n') >= 0 || !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("%q", line)
		}
		var back Entry
		err := decodeEntry(line, &back)
		if (id == "" || cost < 0) != (err != nil) {
			t.Fatalf("%s: %v", line, err)
		}
		if err != nil {
			return
		}
		want := strings.ToValidUTF8(clip(text), "\uFFFD")
		if utf8.ValidString(clip(text)) && back.Model != want {
			t.Fatalf("%q became %q", text, back.Model)
		}
		if !back.Time.Equal(e.Time) || back.Cost != e.Cost {
			t.Fatalf("%+v became %+v", e, back)
		}
	})
}

func FuzzSegment(f *testing.F) {
	good := entry("a")
	line := string(appendEntry(nil, &good)) + "\n"
	f.Add([]byte(line + line))
	f.Add([]byte(line + "{\"id\":\"torn"))
	f.Add([]byte("\n\n\x00\x00" + line))
	f.Add([]byte(strings.Repeat("x", 3*maxLine) + "\n" + line))
	f.Add([]byte(`{"version":1,"lines":1,"rows":1}` + "\n" + `{"day":"2026-01-01","requests":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := int64(0)
		s, err := scanEntries(bytes.NewReader(data), func(e *Entry) error {
			n++
			if e.ID == "" || e.Cost < 0 || e.Tokens.Total() < 0 || e.Time.IsZero() {
				t.Fatalf("%+v", e)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		whole := bytes.LastIndexByte(data, '\n') + 1
		if s.lines != int64(bytes.Count(data, []byte("\n"))) || s.size != int64(whole) || s.torn != (whole < len(data)) {
			t.Fatalf("%+v of %q", s, data)
		}
		if n+s.damaged+s.doubles != s.lines {
			t.Fatalf("%d entries and %+v", n, s)
		}
		rows := 0
		if h, err := parseRollup(bytes.NewReader(data), func(*Row) { rows++ }); err == nil && rows != h.Rows {
			t.Fatalf("%d rows of %d", rows, h.Rows)
		} else if err != nil && rows > 0 {
			t.Fatal("rows of a damaged roll-up are used")
		}
		_, _, _ = readJournal(bytes.NewReader(data), func(line []byte, i *Intent) {
			if i.ID == "" {
				t.Fatalf("%q", line)
			}
		})
	})
}
