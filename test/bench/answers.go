package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// What every answer says that it has used.
const (
	inputTokens  = 110
	outputTokens = 48
)

// phrase is a piece of an answer's text: a plain answer has many, an event of a stream one.
const (
	phrase       = "an answer of some words"
	plainPhrases = 28 // makes an answer of about a kilobyte
)

// answers are those of an upstream that speaks one dialect, as they stand on the wire.
type answers struct {
	plain []byte
	// A stream: what comes before the events with text, one of those, and what comes after them, event by event.
	begin [][]byte
	event []byte
	end   [][]byte
	// stampAt is where the event has its stamp.
	stampAt int
}

var (
	openaiAnswers    = newAnswers(openaiPlain, nil, openaiEvent(`{"role":"assistant","content":"`+stampedPhrase+`"}`, "null", "null"), openaiEnd)
	anthropicAnswers = newAnswers(anthropicPlain, anthropicBegin, anthropicEvent("content_block_delta", `"index":0,"delta":{"type":"text_delta","text":"`+stampedPhrase+`"}`), anthropicEnd)
)

func newAnswers(plain string, begin []string, event string, end []string) *answers {
	chunks := func(events []string) (out [][]byte) {
		for _, e := range events {
			out = append(out, chunk(e))
		}
		return out
	}
	a := &answers{
		plain: []byte("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " + strconv.Itoa(len(plain)) + "\r\n\r\n" + plain),
		begin: chunks(begin), event: chunk(event), end: append(chunks(end), []byte("0\r\n\r\n")),
	}
	a.stampAt = bytes.IndexByte(a.event, stampMark)
	return a
}

// chunk is a piece of a body in chunked coding.
func chunk(s string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(s), s) }

var streamHead = []byte("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

var stampedPhrase = string(noStamp) + " " + phrase

// OpenAI.
var (
	openaiUsage = fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}`,
		inputTokens, outputTokens, inputTokens+outputTokens)
	openaiPlain = `{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"` + modelPlain + `","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"` + strings.Repeat(phrase+" ", plainPhrases) + `","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
		`"usage":` + openaiUsage + `,"service_tier":"default","system_fingerprint":"fp_bench"}`
	openaiEnd = []string{openaiEvent(`{}`, `"stop"`, "null"), openaiEvent("", "", openaiUsage), openaiDone}
)

const openaiDone = "data: [DONE]\n\n"

func openaiEvent(delta, finish, usage string) string {
	choices := `[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":` + finish + `}]`
	if usage != "null" {
		choices = `[]`
	}
	return `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"` + modelPlain +
		`","service_tier":"default","system_fingerprint":"fp_bench","choices":` + choices + `,"usage":` + usage + "}\n\n"
}

// openaiBytes is how long the body of an answer is that came through as it was.
func openaiBytes(t traffic) int {
	if !t.Stream {
		return len(openaiPlain)
	}
	return t.Pace.Tokens*len(openaiEvent(`{"role":"assistant","content":"`+stampedPhrase+`"}`, "null", "null")) + len(strings.Join(openaiEnd, ""))
}

// Anthropic.
var (
	anthropicPlain = `{"id":"msg_bench","type":"message","role":"assistant","model":"` + modelTranslated + `","content":[{"type":"text","text":"` +
		strings.Repeat(phrase+" ", plainPhrases) + `"}],"stop_reason":"end_turn","stop_sequence":null,"usage":` + anthropicUsage(outputTokens) + `}`
	anthropicBegin = []string{
		anthropicEvent("message_start", `"message":{"id":"msg_bench","type":"message","role":"assistant","model":"`+modelTranslated+
			`","content":[],"stop_reason":null,"stop_sequence":null,"usage":`+anthropicUsage(1)+`}`),
		anthropicEvent("content_block_start", `"index":0,"content_block":{"type":"text","text":""}`),
	}
	anthropicEnd = []string{
		anthropicEvent("content_block_stop", `"index":0`),
		anthropicEvent("message_delta", `"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":`+anthropicUsage(outputTokens)),
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
	}
)

func anthropicUsage(output int) string {
	return fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":%d}`, inputTokens, output)
}

func anthropicEvent(name, fields string) string {
	return "event: " + name + "\ndata: {\"type\":\"" + name + "\"," + fields + "}\n\n"
}

// checker is a function that says what is missing in the body of an answer as an OpenAI caller gets it: "" for nothing.
func (t traffic) checker() func(body []byte) string {
	phrases, length := plainPhrases, openaiBytes(t)
	if t.Stream {
		phrases = t.Pace.Tokens
	}
	text, total, done := []byte(phrase), fmt.Appendf(nil, `"total_tokens":%d`, inputTokens+outputTokens), []byte(openaiDone)
	return func(body []byte) string {
		switch n := bytes.Count(body, text); {
		case !t.Translated && len(body) != length:
			return fmt.Sprintf("it should have %d bytes", length)
		case n != phrases:
			return fmt.Sprintf("it has %d pieces of text and should have %d", n, phrases)
		case !bytes.Contains(body, total):
			return "it does not say what was used"
		case t.Stream && !bytes.HasSuffix(body, done):
			return "it does not end as a stream does"
		}
		return ""
	}
}
