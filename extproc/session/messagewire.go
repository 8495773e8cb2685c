package session

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/weir-dev/weir/adapters/canon"
)

// The fields of what was said, of its messages and of their parts. The words for roles and kinds are those of the JSON.
const (
	saidInput  protowire.Number = 1
	saidOutput protowire.Number = 2

	messageRole protowire.Number = 1
	messageName protowire.Number = 2
	messagePart protowire.Number = 3

	partType      protowire.Number = 1 // left out for a text
	partText      protowire.Number = 2
	partImage     protowire.Number = 3
	partCall      protowire.Number = 4
	partResult    protowire.Number = 5
	partSignature protowire.Number = 6
	partOrigin    protowire.Number = 7
)

// appendSaid writes what was said: what readSaid reads.
func appendSaid(b []byte, t *Said) []byte {
	b = appendMessages(b, saidInput, t.Input)
	return appendMessages(b, saidOutput, t.Output)
}

func appendMessages(b []byte, field protowire.Number, list Messages) []byte {
	for i := range list {
		m := &list[i]
		b = appendMessage(b, field, func(b []byte) []byte {
			b = appendString(b, messageRole, string(m.Role))
			b = appendString(b, messageName, m.Name)
			return appendParts(b, messagePart, m.Parts)
		})
	}
	return b
}

// appendParts writes parts. Marks of prompt caches are not kept: how many there may be is the request's business.
func appendParts(b []byte, field protowire.Number, parts []canon.Part) []byte {
	for i := range parts {
		p := &parts[i]
		b = appendMessage(b, field, func(b []byte) []byte {
			if p.Kind != canon.PartText {
				b = appendString(b, partType, kindWord(p.Kind))
			}
			b = appendString(b, partText, p.Text)
			if p.Image != nil {
				b = appendMessage(b, partImage, func(b []byte) []byte {
					b = appendString(b, 1, p.Image.URL)
					b = appendString(b, 2, p.Image.MediaType)
					b = appendString(b, 3, p.Image.Data)
					return appendString(b, 4, p.Image.Detail)
				})
			}
			if p.Call != nil {
				b = appendMessage(b, partCall, func(b []byte) []byte {
					b = appendString(b, 1, p.Call.ID)
					b = appendString(b, 2, p.Call.Name)
					return appendString(b, 3, p.Call.Arguments)
				})
			}
			if p.Result != nil {
				b = appendMessage(b, partResult, func(b []byte) []byte {
					b = appendString(b, 1, p.Result.ID)
					b = appendString(b, 2, p.Result.Name)
					b = appendParts(b, 3, p.Result.Parts)
					return appendBool(b, 4, p.Result.IsError)
				})
			}
			b = appendString(b, partSignature, p.Signature)
			return appendString(b, partOrigin, p.Origin)
		})
	}
	return b
}

func readSaid(text string) (input, output Messages, err error) {
	err = eachField(text, func(field protowire.Number, v value) error {
		list := &input
		switch field {
		case saidInput:
		case saidOutput:
			list = &output
		default:
			return nil
		}
		m, err := readMessage(v.text)
		*list = append(*list, m)
		return err
	})
	return input, output, err
}

func readMessage(text string) (m canon.Message, err error) {
	err = eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case messageRole:
			m.Role = canon.Role(v.text)
		case messageName:
			m.Name = v.text
		case messagePart:
			p, err := readPart(v.text, 0)
			m.Parts = append(m.Parts, p)
			return err
		}
		return nil
	})
	if _, known := canon.RoleOf(string(m.Role)); err == nil && !known {
		err = fmt.Errorf("%w: a message has a role that there is not", errWire)
	}
	return m, err
}

func readPart(text string, depth int) (p canon.Part, err error) {
	if depth > 1 {
		return p, errWire
	}
	known := true
	err = eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case partType:
			p.Kind, known = kindOf(v.text)
		case partText:
			p.Text = v.text
		case partImage:
			p.Image = &canon.Image{}
			return readStrings(v.text, &p.Image.URL, &p.Image.MediaType, &p.Image.Data, &p.Image.Detail)
		case partCall:
			p.Call = &canon.ToolCall{}
			return readStrings(v.text, &p.Call.ID, &p.Call.Name, &p.Call.Arguments)
		case partResult:
			p.Result = &canon.ToolResult{}
			return readResult(v.text, p.Result, depth)
		case partSignature:
			p.Signature = v.text
		case partOrigin:
			p.Origin = v.text
		}
		return nil
	})
	if err == nil && (!known || !holdsItsOwn(&p)) {
		err = fmt.Errorf("%w: a part of a message does not hold what its type has", errWire)
	}
	return p, err
}

func readResult(text string, r *canon.ToolResult, depth int) error {
	return eachField(text, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			r.ID = v.text
		case 2:
			r.Name = v.text
		case 3:
			p, err := readPart(v.text, depth+1)
			r.Parts = append(r.Parts, p)
			return err
		case 4:
			r.IsError = v.bool()
		}
		return nil
	})
}

// readStrings reads the fields 1, 2 and so on.
func readStrings(text string, into ...*string) error {
	return eachField(text, func(field protowire.Number, v value) error {
		if field <= protowire.Number(len(into)) {
			*into[field-1] = v.text
		}
		return nil
	})
}

// holdsItsOwn says whether a part holds what its kind has, and nothing else.
func holdsItsOwn(p *canon.Part) bool {
	return (p.Kind == canon.PartImage) == (p.Image != nil) && (p.Kind == canon.PartToolCall) == (p.Call != nil) &&
		(p.Kind == canon.PartToolResult) == (p.Result != nil)
}
