package content

import (
	"github.com/weir-dev/weir/adapters/canon"
	"github.com/weir-dev/weir/adapters/jsonx"
)

// message is a turn of a conversation, in the words of the OpenTelemetry conventions for generative AI
// (opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-input-messages.json and gen-ai-output-messages.json).
type message struct {
	role  string
	parts []part
}

type partKind uint8

const (
	partText         partKind = iota // text
	partReasoning                    // text
	partRefusal                      // text; of no kind that the conventions have
	partCall                         // id, name, text: the arguments
	partCallResponse                 // id, parts
	partMedia                        // modality, mimeType, size; of no kind that the conventions have: theirs hold the media
)

// part is a piece of a message.
type part struct {
	kind     partKind
	text     text
	id, name text
	parts    []part // of a result of a tool
	// Of media, which are never captured.
	modality, mimeType string
	size               int // bytes; 0 where unknown
}

const (
	// maxParts of one direction: what many small ones take is not in their text.
	maxParts = 2048
	// maxName is the longest name or ID that is shown whole, in bytes.
	maxName = 256
)

// appendMessages prints messages; finish is of all of them, "" for those of an input.
func (r *Rule) appendMessages(dst []byte, list []message, finish string) []byte {
	dst = append(dst, '[')
	for i := range list {
		m := &list[i]
		dst = comma(dst, i)
		dst = jsonx.AppendString(append(dst, `{"role":`...), m.role)
		dst = r.appendParts(append(dst, `,"parts":`...), m.parts)
		if finish != "" {
			dst = jsonx.AppendString(append(dst, `,"finish_reason":`...), finish)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func (r *Rule) appendParts(dst []byte, parts []part) []byte {
	dst = append(dst, '[')
	for i := range parts {
		dst = r.appendPart(comma(dst, i), &parts[i])
	}
	return append(dst, ']')
}

func (r *Rule) appendPart(dst []byte, p *part) []byte {
	switch p.kind {
	case partText:
		dst = r.appendText(append(dst, `{"type":"text","content":`...), p.text)
	case partReasoning:
		dst = r.appendText(append(dst, `{"type":"reasoning","content":`...), p.text)
	case partRefusal:
		dst = r.appendText(append(dst, `{"type":"refusal","content":`...), p.text)
	case partCall:
		dst = r.appendText(append(dst, `{"type":"tool_call","id":`...), p.id)
		dst = r.appendText(append(dst, `,"name":`...), p.name)
		dst = r.appendArguments(append(dst, `,"arguments":`...), p.text)
	case partCallResponse:
		dst = r.appendText(append(dst, `{"type":"tool_call_response","id":`...), p.id)
		dst = append(dst, `,"response":`...)
		if len(p.parts) == 1 && p.parts[0].kind == partText {
			dst = r.appendText(dst, p.parts[0].text)
		} else {
			dst = r.appendParts(dst, p.parts)
		}
	case partMedia:
		dst = append(append(append(dst, `{"type":"media","modality":"`...), p.modality...), '"')
		if p.mimeType != "" {
			dst = r.appendText(append(dst, `,"mime_type":`...), text{raw: p.mimeType, limit: len(p.mimeType)}) // callers write what they like there
		}
		if p.size > 0 {
			dst = appendInt(append(dst, `,"bytes":`...), p.size)
		}
	}
	return append(dst, '}')
}

func (r *Rule) appendText(dst []byte, t text) []byte {
	return jsonx.AppendString(dst, r.show(t, false))
}

// appendArguments prints the arguments of a tool as the JSON that they are, or, where they were cut or a mark stands in the
// way, as text.
func (r *Rule) appendArguments(dst []byte, t text) []byte {
	shown := r.show(t, true)
	if jsonx.Check([]byte(shown)) == nil {
		return append(dst, jsonx.Root([]byte(shown))...)
	}
	return jsonx.AppendString(dst, shown)
}

func comma(dst []byte, i int) []byte {
	if i > 0 {
		return append(dst, ',')
	}
	return dst
}

// finishReason is a reason in the words of the conventions. They have none for an answer that broke off, nor for one that
// somebody stopped.
func finishReason(f canon.FinishReason) string {
	if f == canon.FinishToolCalls {
		return "tool_call"
	}
	return string(f)
}

const (
	finishError      = "error"
	finishIncomplete = "incomplete" // Weir's own word: the answer was not read to its end
)
