package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRequestText(t *testing.T) {
	for _, c := range []traffic{
		{Model: modelPlain, Bytes: small},
		{Model: modelFallback, Bytes: large},
		{Model: modelTranslated, Bytes: small, Stream: true, Pace: pace{25, 40 * time.Millisecond}},
		{Model: modelPlain, Bytes: large, Stream: true, Pace: quick},
	} {
		head, body, ok := strings.Cut(string(c.text("host:1", "/path", "key")), "\r\n\r\n")
		var fields struct {
			Model  string
			Stream bool
		}
		if err := json.Unmarshal([]byte(body), &fields); err != nil {
			t.Error(err)
		}
		if !ok || len(body) != c.Bytes || fields.Model != c.Model || fields.Stream != c.Stream || !strings.HasPrefix(head, "POST /path HTTP/1.1\r\nhost: host:1\r\n") {
			t.Errorf("%+v: %s\n%.600s", c, head, body)
		}
		want := quick
		if c.Stream {
			want = c.Pace
		}
		if p, err := paceOf([]byte(body)); err != nil || p != want {
			t.Errorf("%+v: its pace is read as %v (%v)", c, p, err)
		}
	}
}

func TestPaceOf(t *testing.T) {
	for in, want := range map[string]pace{
		"nothing":                         quick,
		`"text":"pace=4x5s;word"`:         {4, 5 * time.Second},
		`pace=100000x1m0s;`:               {100000, time.Minute},
		`pace=25x40ms;pace=1x1s;`:         {25, 40 * time.Millisecond},
		`pace=4x5s`:                       {},
		`pace=x5s;`:                       {},
		`pace=0x5s;`:                      {},
		`pace=4x-5s;`:                     {},
		`pace=4x2m;`:                      {},
		`pace=100001x1ms;`:                {},
		`pace=4;`:                         {},
		`pace=` + strings.Repeat("4", 80): {},
	} {
		if p, err := paceOf([]byte(in)); p != want || (err == nil) != (want != pace{}) {
			t.Errorf("%s: %v (%v), want %v", in, p, err, want)
		}
	}
}

func FuzzPaceOf(f *testing.F) {
	f.Add([]byte("pace=4x5s;"))
	f.Add([]byte("xpace=4x5"))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := paceOf(in)
		if err == nil && (p.Tokens < 1 || p.Tokens > maxTokens || p.Every < 0 || p.Every > maxEvery) {
			t.Errorf("%v", p)
		}
	})
}

// answer is what the upstream says to a request.
func answer(t *testing.T, path string, c traffic) message {
	t.Helper()
	var out bytes.Buffer
	if err := answerAll(bytes.NewReader(c.text("host", path, "key")), &out); err == nil || err.Error() != "EOF" {
		t.Fatal(err)
	}
	var m message
	r := bufio.NewReader(&out)
	if err := m.readHead(r); err != nil {
		t.Fatal(err)
	}
	if err := m.readBody(r, nil); err != nil {
		t.Fatal(err)
	}
	if r.Buffered() > 0 || m.status() != 200 {
		t.Fatalf("%s; %d bytes are left", m.start, r.Buffered())
	}
	return m
}

// TestAnswers: what the upstream says is what the checker wants, and nothing less is.
func TestAnswers(t *testing.T) {
	for _, c := range []traffic{
		{Model: modelPlain, Bytes: small},
		{Model: modelPlain, Bytes: small, Stream: true, Pace: quick},
		{Model: modelPlain, Bytes: small, Stream: true, Pace: pace{3, time.Millisecond}},
	} {
		body := answer(t, "/v1/chat/completions", c).body
		for _, c.Translated = range []bool{false, true} {
			check := c.checker()
			if missing := check(body); missing != "" {
				t.Errorf("%+v: %s\n%s", c, missing, body)
			}
			for what, bad := range map[string]string{
				"cut":      string(body[:len(body)-1]),
				"no usage": strings.ReplaceAll(string(body), "total_tokens", "totel_tokens"),
				"no text":  strings.Replace(string(body), phrase, "", 1),
				"twice":    string(body) + string(body),
			} {
				// A plain answer that a gateway has written may end as it likes.
				if check([]byte(bad)) == "" && !(what == "cut" && c.Translated && !c.Stream) {
					t.Errorf("%+v, %s: taken as whole", c, what)
				}
			}
		}
	}
}

// TestAnthropicAnswers are valid, event by event, and have the text and the usage.
func TestAnthropicAnswers(t *testing.T) {
	var plain struct {
		Content []struct{ Text string }
		Usage   struct {
			Output int `json:"output_tokens"`
		}
	}
	body := answer(t, "/v1/messages", traffic{Model: modelTranslated, Bytes: small}).body
	if err := json.Unmarshal(body, &plain); err != nil || len(plain.Content) != 1 || strings.Count(plain.Content[0].Text, phrase) != plainPhrases || plain.Usage.Output != outputTokens {
		t.Errorf("%v\n%s", err, body)
	}
	var names []string
	for event := range strings.SplitSeq(strings.TrimSuffix(string(answer(t, "/v1/messages", traffic{Model: modelTranslated, Bytes: small, Stream: true, Pace: pace{2, time.Millisecond}}).body), "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(strings.TrimPrefix(event, "event: "), "\ndata: ")
		var fields struct{ Type string }
		if err := json.Unmarshal([]byte(data), &fields); err != nil || !ok || fields.Type != name {
			t.Errorf("%v: %q", err, event)
		}
		names = append(names, name)
	}
	if got := fmt.Sprint(names); got != "[message_start content_block_start content_block_delta content_block_delta content_block_stop message_delta message_stop]" {
		t.Error(got)
	}
}
