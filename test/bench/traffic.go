package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The models that callers ask for. By its name Weir chooses the route.
const (
	modelPlain      = "gpt-4o"            // two weighted backends
	modelFallback   = "gpt-4o-mini"       // two backends by priority
	modelTranslated = "claude-sonnet-4-5" // one that speaks another dialect
)

// Bodies of requests, in bytes.
const (
	small = 512
	large = 100 << 10
)

// pace is how a stream comes: so many events with text, one every so often; all at once where Every is 0.
type pace struct {
	Tokens int           `json:"tokens"`
	Every  time.Duration `json:"everyNanos"`
}

// quick is the pace of streams whose time is of no interest, but their cost.
var quick = pace{Tokens: 8}

const paceMark = "pace="

// String is how a request's text tells the upstream; it is the same in every dialect.
func (p pace) String() string { return fmt.Sprintf("%s%dx%v;", paceMark, p.Tokens, p.Every) }

// The longest stream that is asked for, in events and in time between two of them.
const (
	maxTokens = 100_000
	maxEvery  = time.Minute
)

// paceOf reads it out of a request; quick where there is none.
func paceOf(body []byte) (pace, error) {
	i := bytes.Index(body, []byte(paceMark))
	if i < 0 {
		return quick, nil
	}
	text, _, found := bytes.Cut(body[i+len(paceMark):min(len(body), i+64)], []byte(";"))
	tokens, every, ok := strings.Cut(string(text), "x")
	n, err := strconv.Atoi(tokens)
	d, derr := time.ParseDuration(every)
	if !found || !ok || err != nil || derr != nil || n < 1 || n > maxTokens || d < 0 || d > maxEvery {
		return pace{}, fmt.Errorf("%q is no pace of a stream", body[i:min(len(body), i+32)])
	}
	return pace{n, d}, nil
}

// traffic is a kind of request.
type traffic struct {
	Model  string `json:"model"`
	Bytes  int    `json:"requestBytes"` // of the body
	Stream bool   `json:"stream"`
	Pace   pace   `json:"pace"` // of a stream
	// Translated says that the answer is written by the gateway, so that its length is the gateway's business.
	Translated bool `json:"translated,omitempty"`
}

// text is a whole request as it stands on the wire. Its caller asks for the usage of streams itself, as official SDKs are told to by
// whoever counts.
func (t traffic) text(address, path, key string) []byte {
	body := func(text string) string {
		more := ""
		if t.Stream {
			more = `"stream":true,"stream_options":{"include_usage":true},`
			text = t.Pace.String() + text
		}
		return `{"model":"` + t.Model + `",` + more + `"max_tokens":64,"messages":[` +
			`{"role":"system","content":"You answer in one sentence."},{"role":"user","content":"` + text + `"}]}`
	}
	content := body(strings.Repeat("word ", t.Bytes/5+1)[:t.Bytes-len(body(""))])
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nhost: %s\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\n"+
		"accept: */*\r\nuser-agent: weir-bench\r\ncontent-length: %d\r\n\r\n%s", path, address, key, len(content), content)
}
