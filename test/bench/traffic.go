package main

import (
	"fmt"
	"strconv"
	"strings"
)

// The request, and what its answer uses. The body of a request is half a kilobyte long.
const (
	model        = "gpt-4o"
	bodyBytes    = 512
	inputTokens  = 110
	outputTokens = 48
	// deltas is how many events of a stream carry text. Three more come after them: the reason of the end, the usage,
	// and the last one.
	deltas = 8
)

// requestText is a whole request as it stands on the wire. Its caller asks for the usage of streams itself, as official
// SDKs are told to by whoever counts.
func requestText(address, path, key string, stream bool) []byte {
	body := func(text string) string {
		more := ""
		if stream {
			more = `"stream":true,"stream_options":{"include_usage":true},`
		}
		return `{"model":"` + model + `",` + more + `"max_tokens":64,"temperature":0.2,"messages":[` +
			`{"role":"system","content":"You answer in one sentence."},{"role":"user","content":"` + text + `"}]}`
	}
	text := body(strings.Repeat("word ", bodyBytes/5)[:bodyBytes-len(body(""))])
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nhost: %s\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\n"+
		"accept: */*\r\nuser-agent: weir-bench\r\ncontent-length: %d\r\n\r\n%s", path, address, key, len(text), text)
}

// usageText is the usage of every answer.
var usageText = fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}`,
	inputTokens, outputTokens, inputTokens+outputTokens)

// plainBody is the answer to a plain request.
var plainBody = `{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"` + model + `","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"` + strings.Repeat("an answer of some words ", 8) + `","refusal":null},"logprobs":null,"finish_reason":"stop"}],` +
	`"usage":` + usageText + `,"service_tier":"default","system_fingerprint":"fp_bench"}`

// streamEvents are the events of a stream.
var streamEvents = func() []string {
	chunk := func(delta, finish, usage string) string {
		choices := `[{"index":0,"delta":` + delta + `,"logprobs":null,"finish_reason":` + finish + `}]`
		if usage != "null" {
			choices = `[]`
		}
		return `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"` + model +
			`","service_tier":"default","system_fingerprint":"fp_bench","choices":` + choices + `,"usage":` + usage + "}\n\n"
	}
	var out []string
	for range deltas {
		out = append(out, chunk(`{"role":"assistant","content":" an answer of some words"}`, "null", "null"))
	}
	return append(out, chunk(`{}`, `"stop"`, "null"), chunk("", "", usageText), "data: [DONE]\n\n")
}()

// answerBytes is how long the body of an answer is that came through whole.
func answerBytes(stream bool) int {
	if !stream {
		return len(plainBody)
	}
	return len(strings.Join(streamEvents, ""))
}

// The answers as they stand on the wire. A stream is written event by event.
var (
	plainAnswer = []byte("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: " + strconv.Itoa(len(plainBody)) + "\r\n\r\n" + plainBody)
	streamHead  = []byte("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
	streamParts = func() (out [][]byte) {
		for _, e := range streamEvents {
			out = append(out, fmt.Appendf(nil, "%x\r\n%s\r\n", len(e), e))
		}
		return append(out, []byte("0\r\n\r\n"))
	}()
)
