package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// lineError is a problem of a line of a file, before any object is known.
type lineError struct {
	line    int    // 1-based; 0 for the whole file
	field   string // where inside the document, if known
	message string
	warning bool
}

// parseFile splits a file into the root nodes of its documents. After a syntax error nothing that follows
// can be trusted, so the error is the last thing reported for the file.
func parseFile(name string, raw []byte) (docs []*yaml.Node, errs []lineError) {
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	if line := firstInvalidUTF8(raw); line > 0 {
		return nil, []lineError{{line: line, message: "the file is not UTF-8 text from here on: save it as UTF-8"}}
	}
	if strings.HasSuffix(name, ".json") {
		docs, errs = parseJSON(raw)
	} else {
		docs, errs = parseYAML(raw)
	}
	// A writer that truncates first, and a full disk, leave an empty file, which must not remove objects.
	// Where nothing was parsed and nothing is wrong, a # can only begin a comment: someone meant it.
	if len(docs) == 0 && len(errs) == 0 && !bytes.ContainsRune(raw, '#') {
		errs = []lineError{{message: "the file is empty: delete it to remove its objects, or write them"}}
	}
	return docs, errs
}

func firstInvalidUTF8(raw []byte) int {
	if utf8.Valid(raw) {
		return 0
	}
	line := 1
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		if r == utf8.RuneError && size == 1 {
			return line
		}
		if r == '\n' {
			line++
		}
		raw = raw[size:]
	}
	return 0
}

func parseYAML(raw []byte) (docs []*yaml.Node, errs []lineError) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, errs
		}
		if err != nil {
			return docs, append(errs, yamlSyntaxError(raw, err))
		}
		if len(doc.Content) == 0 {
			continue
		}
		root := doc.Content[0]
		// A document of comments alone is a null that nobody wrote.
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
			continue
		}
		docs = append(docs, root)
	}
}

var yamlErrorLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// yamlSyntaxError turns the parser's words into a sentence and finds the line.
func yamlSyntaxError(raw []byte, err error) lineError {
	text, line := splitYAMLError(err)
	if len(raw) <= maxSearchBytes {
		line = searchErrorLine(raw, text)
	}
	message := "not valid YAML: " + text
	switch {
	case strings.Contains(text, "cannot start any token") && tabIndented(raw, line):
		message = "not valid YAML: the line is indented with a tab: use spaces"
	case strings.Contains(text, "mapping values are not allowed"):
		message += " (a text that contains \": \" needs quotes)"
	case strings.Contains(text, "unknown anchor"):
		message += ": define it with & above, in the same document"
	}
	return lineError{line: line, message: message}
}

// splitYAMLError separates what the parser says from the line that it says it of. The parser leaves the first
// line's number out.
func splitYAMLError(err error) (text string, line int) {
	text = err.Error()
	m := yamlErrorLine.FindStringSubmatch(text)
	if n, err := strconv.Atoi(m[1]); err == nil {
		return text[len(m[0]):], n
	}
	return text[len(m[0]):], 1
}

// maxSearchBytes is the largest file that searchErrorLine parses again and again.
const maxSearchBytes = 1 << 20

// searchErrorLine finds the line at which the parser gives up. The parser itself names the line before it, or
// the one where the surrounding block begins. Half of the file after half of the file is parsed instead: the
// line is the one that brings the error into the part that is read.
func searchErrorLine(raw []byte, text string) int {
	lines := bytes.SplitAfter(raw, []byte("\n"))
	fails := func(n int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:n], nil)))
		for {
			var doc yaml.Node
			err := decoder.Decode(&doc)
			if err == nil {
				continue
			}
			found, _ := splitYAMLError(err)
			return !errors.Is(err, io.EOF) && found == text
		}
	}
	return min(1+sort.Search(len(lines)-1, func(i int) bool { return fails(i + 1) }), len(lines))
}

func tabIndented(raw []byte, line int) bool {
	lines := bytes.Split(raw, []byte("\n"))
	if line > len(lines) {
		return false
	}
	text := lines[line-1]
	return bytes.ContainsRune(text[:len(text)-len(bytes.TrimLeft(text, " \t"))], '\t')
}

// expansion limits of YAML aliases in one file. An honest file repeats a block some dozen times; a bomb asks
// for billions of nodes.
const (
	maxAliasNodes = 100_000
	maxAliasBytes = 8 << 20
)

// converter makes JSON values of YAML nodes as Kubernetes tools do, and finds what they would stumble over.
type converter struct {
	errs       []lineError
	aliasDepth int
	aliasNodes int
	aliasBytes int
	open       map[*yaml.Node]bool // anchors that are being expanded
	exhausted  bool
}

func (c *converter) errorf(n *yaml.Node, path, format string, args ...any) {
	c.errs = append(c.errs, lineError{line: n.Line, field: path, message: fmt.Sprintf(format, args...)})
}

// convert returns the JSON value of n. What it cannot convert becomes nil, with an error in c.errs.
func (c *converter) convert(n *yaml.Node, path string) any {
	if c.exhausted {
		return nil
	}
	if c.aliasDepth > 0 {
		c.aliasNodes++
		c.aliasBytes += len(n.Value)
		if c.aliasNodes > maxAliasNodes || c.aliasBytes > maxAliasBytes {
			c.exhausted = true
			c.errorf(n, path, "aliases (*name) expand to more than %d values: write the document without them", maxAliasNodes)
			return nil
		}
	}
	switch n.Kind {
	case yaml.AliasNode:
		return c.alias(n, path)
	case yaml.SequenceNode:
		if tag := n.ShortTag(); tag != "!!seq" {
			c.errorf(n, path, "the tag %s is not supported: remove it", tag)
			return nil
		}
		out := make([]any, 0, len(n.Content))
		for i, e := range n.Content {
			out = append(out, c.convert(e, path+"["+strconv.Itoa(i)+"]"))
		}
		return out
	case yaml.MappingNode:
		return c.mapping(n, path)
	case yaml.ScalarNode:
		return c.scalar(n, path)
	}
	c.errorf(n, path, "this is not a value")
	return nil
}

func (c *converter) alias(n *yaml.Node, path string) any {
	if c.open[n.Alias] {
		c.errorf(n, path, "the anchor &%s contains itself", n.Value)
		return nil
	}
	if c.open == nil {
		c.open = map[*yaml.Node]bool{}
	}
	c.open[n.Alias] = true
	c.aliasDepth++
	v := c.convert(n.Alias, path)
	c.aliasDepth--
	delete(c.open, n.Alias)
	return v
}

func (c *converter) mapping(n *yaml.Node, path string) any {
	if tag := n.ShortTag(); tag != "!!map" {
		c.errorf(n, path, "the tag %s is not supported: remove it", tag)
		return nil
	}
	out := make(map[string]any, len(n.Content)/2)
	lines := make(map[string]int, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if isMerge(k) {
			merges = append(merges, v)
			continue
		}
		key, ok := c.key(k, path)
		if !ok {
			continue
		}
		child := joinField(path, key)
		if first, double := lines[key]; double {
			c.errorf(k, child, "the key %q is already set on line %d: remove one of them", key, first)
			continue
		}
		lines[key] = k.Line
		out[key] = c.convert(v, child)
	}
	// A merge adds what the mapping does not say itself; of several, the first that says it counts.
	for _, m := range merges {
		for _, source := range c.mergeSources(m, path) {
			for k, v := range source {
				if _, set := out[k]; !set {
					out[k] = v
				}
			}
		}
	}
	return out
}

func isMerge(k *yaml.Node) bool {
	return k.Kind == yaml.ScalarNode && k.Value == "<<" && (k.Tag == "!!merge" || k.ShortTag() == "!!merge")
}

func (c *converter) mergeSources(n *yaml.Node, path string) []map[string]any {
	switch v := c.convert(n, path).(type) {
	case map[string]any:
		return []map[string]any{v}
	case []any:
		var out []map[string]any
		for _, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				c.errorf(n, path, "<< takes a mapping or a list of mappings")
				return nil
			}
			out = append(out, m)
		}
		return out
	}
	if !c.exhausted {
		c.errorf(n, path, "<< takes a mapping or a list of mappings")
	}
	return nil
}

// key returns the text of a mapping key.
func (c *converter) key(k *yaml.Node, path string) (string, bool) {
	if k.Kind == yaml.AliasNode {
		k = k.Alias
	}
	if k.Kind != yaml.ScalarNode {
		c.errorf(k, path, "a key must be a text, not a list or a mapping")
		return "", false
	}
	switch k.ShortTag() {
	case "!!str", "!!int", "!!bool", "!!float", "!!timestamp":
	default:
		c.errorf(k, path, "the key %q is not a text: put it in quotes", k.Value)
		return "", false
	}
	if isPlain(k) && yaml11Bool(k.Value) {
		c.errs = append(c.errs, lineError{line: k.Line, field: joinField(path, k.Value), warning: true,
			message: fmt.Sprintf("kubectl and Helm read the bare key %s as a boolean: write %q", k.Value, k.Value)})
	}
	return k.Value, true
}

func (c *converter) scalar(n *yaml.Node, path string) any {
	switch tag := n.ShortTag(); tag {
	case "!!str":
		if isPlain(n) && yaml11Bool(n.Value) {
			c.errorf(n, path, "kubectl reads a bare %s as a boolean, others as a text: write true or false, or %q", n.Value, n.Value)
			return nil
		}
		return n.Value
	case "!!timestamp":
		return n.Value
	case "!!null":
		return nil
	case "!!bool":
		var v bool
		if err := n.Decode(&v); err != nil {
			c.errorf(n, path, "%q is not a boolean", n.Value)
		}
		return v
	case "!!int", "!!float":
		v, ok := number(n)
		if !ok {
			c.errorf(n, path, "%q is not a number that JSON can hold", n.Value)
			return nil
		}
		return v
	default:
		c.errorf(n, path, "the tag %s is not supported: remove it", tag)
		return nil
	}
}

// number returns an int64, uint64 or float64.
func number(n *yaml.Node) (any, bool) {
	var v any
	if err := n.Decode(&v); err != nil {
		f, err := strconv.ParseFloat(n.Value, 64) // an integer of JSON that no integer type holds
		return f, err == nil
	}
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64, uint64:
		return v, true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	}
	return nil, false
}

func isPlain(n *yaml.Node) bool {
	const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	return n.Style&(quoted|yaml.TaggedStyle) == 0
}

// yaml11Bool tells the words that are booleans to YAML 1.1, which kubectl, Helm and Kustomize read, and
// texts to YAML 1.2.
func yaml11Bool(s string) bool {
	switch s {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF":
		return true
	}
	return false
}

func joinField(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
