package files

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	yaml "go.yaml.in/yaml/v3"
)

// maxJSONDepth bounds nested lists and objects, as the YAML parser does for its own.
const maxJSONDepth = 1000

// jsonParser builds the same nodes from JSON that the YAML parser builds, so that everything after it has one
// kind of tree. The YAML parser itself does not read all of JSON (surrogate pairs, tabs).
type jsonParser struct {
	decoder *json.Decoder
	raw     []byte
	offset  int // bytes of raw whose lines have been counted
	line    int
}

// parseJSON reads one or several JSON documents, one after the other.
func parseJSON(raw []byte) (docs []*yaml.Node, errs []lineError) {
	p := &jsonParser{decoder: json.NewDecoder(bytes.NewReader(raw)), raw: raw, line: 1}
	p.decoder.UseNumber()
	for {
		n, err := p.value(0)
		if errors.Is(err, io.EOF) {
			return docs, errs
		}
		if err != nil {
			message := "not valid JSON: " + strings.TrimPrefix(err.Error(), "json: ")
			at := p.decoder.InputOffset()
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				at = syntax.Offset
			}
			return docs, append(errs, lineError{line: p.lineAt(int(at)), message: message})
		}
		docs = append(docs, n)
	}
}

// lineAt counts lines up to a byte offset; offsets come in rising order.
func (p *jsonParser) lineAt(offset int) int {
	offset = min(offset, len(p.raw))
	if offset > p.offset {
		p.line += bytes.Count(p.raw[p.offset:offset], []byte("\n"))
		p.offset = offset
	}
	return p.line
}

// value reads the next value. io.EOF means that the input ended before it began.
func (p *jsonParser) value(depth int) (*yaml.Node, error) {
	token, err := p.decoder.Token()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			return nil, errors.New("the document ends too early")
		}
		return nil, err
	}
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("nested more than %d levels deep", maxJSONDepth)
	}
	// A token's last byte is on the token's own line: JSON strings hold no line feed.
	n := &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Line: p.lineAt(int(p.decoder.InputOffset()))}
	switch t := token.(type) {
	case nil:
		n.Tag, n.Value = "!!null", "null"
	case bool:
		n.Tag, n.Value = "!!bool", fmt.Sprint(t)
	case string:
		n.Tag, n.Value = "!!str", t
	case json.Number:
		n.Tag, n.Value = jsonNumberTag(t.String()), t.String()
	case json.Delim:
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		} else {
			n.Kind, n.Tag = yaml.MappingNode, "!!map"
		}
		// An object's keys are string tokens, so keys and values alternate in Content as they do in YAML.
		for p.decoder.More() {
			child, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if _, err := p.decoder.Token(); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the document ends too early")
			}
			return nil, err
		}
	}
	return n, nil
}

func jsonNumberTag(s string) string {
	if strings.ContainsAny(s, ".eE") {
		return "!!float"
	}
	return "!!int"
}
